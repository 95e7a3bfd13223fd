"""The commands that there are: where each is, and what it is for.

Summaries stand here so that help and completion load no command; a test compares them.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """``module:attribute`` of a command, and the first sentence of its help."""

    target: str
    summary: str


GROUPS: Final[dict[str, dict[str, Entry]]] = {
    "On this machine": {
        "demo": Entry(
            "ambientctl.demo.command:demo",
            "Start a mesh on this machine and show, step by step, what it does.",
        ),
        "local": Entry(
            "ambientctl.local.commands:local",
            "A whole mesh on this machine: nodes and pods are network namespaces.",
        ),
        "enroll": Entry(
            "ambientctl.enroll:enroll",
            "Bring a process's network namespace into the mesh, while it runs.",
        ),
        "unenroll": Entry(
            "ambientctl.enroll:unenroll",
            "Take an enrolled process out of the mesh, while it runs.",
        ),
    },
    "Installation": {
        "check": Entry(
            "ambientctl.check.command:command",
            "Check the cluster, the mesh, its certificates and its configuration.",
        ),
        "install": Entry(
            "ambientctl.install.command:install",
            "Install the mesh, or change an installation; what is there already stays as it is.",
        ),
        "upgrade": Entry(
            "ambientctl.install.command:upgrade",
            "Bring an installation to this version: control plane first, then agents and tunnels.",
        ),
        "uninstall": Entry(
            "ambientctl.install.uninstall:uninstall",
            "Take namespaces out of the mesh, remove it, and look whether anything is left.",
        ),
        "tag": Entry(
            "ambientctl.tag:command",
            "Name revisions of the control plane.",
        ),
        "migrate": Entry(
            "ambientctl.migrate.command:command",
            "Move namespaces from sidecars to ambient mode, one by one, and back.",
        ),
        "create-remote-secret": Entry(
            "ambientctl.remote_secret:command",
            "Print the Secret with which another cluster's control plane may read this cluster.",
        ),
    },
    "Configuration": {
        "waypoint": Entry(
            "ambientctl.waypoint:waypoint",
            "Deploy and inspect waypoints, the L7 proxies of namespaces.",
        ),
        "analyze": Entry(
            "ambientctl.analyze.command:command",
            "Find mistakes in the mesh's configuration, in files and in the cluster.",
        ),
        "explain": Entry(
            "ambientctl.explain:command",
            "Say which fields of a KIND act at node tunnels and which at waypoints.",
        ),
    },
    "What happens, and why": {
        "why": Entry(
            "ambientctl.why.command:why",
            "Say which way a connection from SRC to DST takes, and which rule lets it pass or not.",
        ),
        "describe": Entry(
            "ambientctl.describe.command:command",
            "Say what the mesh does with a pod, a service or a namespace, and what is wrong there.",
        ),
        "authz": Entry(
            "ambientctl.authz:command",
            "Look at authorization: who enforces which policy.",
        ),
        "top": Entry(
            "ambientctl.traffic.top:command",
            "Show live rates for each pair of workloads, with the mark of mutual TLS.",
        ),
        "tap": Entry(
            "ambientctl.traffic.tap:command",
            "Print connections and requests of the mesh as they end; with -n, of a namespace.",
        ),
        "graph": Entry(
            "ambientctl.traffic.graph:command",
            "Show the service graph: flows between workloads with rates, errors and mutual TLS.",
        ),
        "dashboard": Entry(
            "ambientctl.dashboard:command",
            "Open a web page of the mesh until Ctrl-C.",
        ),
    },
    "Inside the programs": {
        "proxy-status": Entry(
            "ambientctl.proxy_status:command",
            "Show the proxies that are connected to the control plane, and what each one has.",
        ),
        "proxy-config": Entry(
            "ambientctl.proxy_config:command",
            "Show a waypoint's routes, endpoints, policies, certificates and objects.",
        ),
        "ztunnel-config": Entry(
            "ambientctl.ztunnel_config.command:command",
            "Show what ztunnel knows: workloads, services, policies, certificates, connections.",
        ),
        "version": Entry(
            "ambientctl.version:version",
            "Show the versions of this program, of the control plane and of the data plane.",
        ),
        "bug-report": Entry(
            "ambientctl.bug_report:command",
            "Gather objects, events, states, logs and findings into one archive.",
        ),
    },
    "Shell": {
        "completion": Entry(
            "ambientctl.completion:command",
            "Print the completion script of a SHELL.",
        ),
    },
}
"""By the heading under which help lists them."""
COMMANDS: Final = {name: entry for group in GROUPS.values() for name, entry in group.items()}
