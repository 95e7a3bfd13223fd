"""What fingers that know istioctl type: its commands that are not here, its options that change
nothing here, and its way to write booleans.
"""

from __future__ import annotations

import re
from typing import Any, Final

import click

from ambient.api.errors import UsageError

NO_SIDECARS: Final = (
    "kubectl label namespace NAME istio.io/dataplane-mode=ambient; ambientctl migrate"
)
NOT_ENVOY: Final = "waypoints of this mesh are no Envoys and have none"
REPLACED: Final[dict[str, tuple[str, str]]] = {
    "admin": (
        "log levels of the control plane are its setting LOG_LEVEL",
        "kubectl -n istio-system set env deploy/istiod LOG_LEVEL=xds:debug",
    ),
    "check-inject": ("nothing is injected: this mesh has no sidecars", NO_SIDECARS),
    "config": ("there is no configuration of this program", "ambientctl --help: global options"),
    "envoy-stats": (
        NOT_ENVOY.replace("have none", "their metrics are Prometheus'"),
        "kubectl port-forward -n NAMESPACE POD 15020; curl localhost:15020/stats/prometheus",
    ),
    "injector": ("nothing is injected: this mesh has no sidecars", NO_SIDECARS),
    "internal-debug": (
        "pages of the control plane are read over its own port",
        "kubectl -n istio-system port-forward deploy/istiod 8080; curl localhost:8080/debug",
    ),
    "kube-inject": ("nothing is injected: this mesh has no sidecars", NO_SIDECARS),
    "metrics": ("rates are shown by another command", "ambientctl top"),
    "operator": ("there is no operator in the cluster", "ambientctl install, ambientctl upgrade"),
    "options": ("global options are part of the help", "ambientctl --help"),
    "profile": ("profiles are an option of the installer", "ambientctl install --help"),
    "remote-clusters": (
        "clusters that the control plane reads are shown by its own page",
        "kubectl -n istio-system port-forward deploy/istiod 8080; curl :8080/debug/clusterz",
    ),
    "revision": ("revisions are shown with their tags", "ambientctl tag list; ambientctl version"),
    "validate": ("files are looked at by analyze", "ambientctl analyze --no-use-kube FILES"),
    "wait": ("the check waits", "ambientctl check --wait 60"),
    "workload": ("machines outside the cluster join in another way", "docs/tasks/vms.md"),
    "manifest": ("objects are rendered by the installer", "ambientctl install --dry-run"),
    "manifest diff": ("two renderings are compared by diff", "ambientctl install --dry-run"),
    "manifest translate": ("values of istioctl have other names here", "docs/install.md"),
    "proxy-config bootstrap": (
        f"bootstrap: {NOT_ENVOY}",
        "ambientctl proxy-config all POD -o json",
    ),
    "proxy-config ecds": (f"ECDS: {NOT_ENVOY}", "ambientctl proxy-config object POD"),
    "proxy-config listener": (f"listeners: {NOT_ENVOY}", "ambientctl proxy-config route POD"),
    "proxy-config listeners": (f"listeners: {NOT_ENVOY}", "ambientctl proxy-config route POD"),
    "proxy-config rootca-compare": ("roots are shown with the certificates", "ambientctl zc certs"),
}
"""Command of istioctl: why it is not here, and what is instead."""
EVERYWHERE: Final = ("--kubeclient-timeout", "--vklog")
CHANGES_NOTHING: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "analyze": (("-v", "--verbose"), ("-r", "--revision", "--timeout", "--color")),
    "check": (("--skip-controlplane",), ("-f", "--from-version", "-r", "--revision")),
    "describe pod": (("--ignoreUnmeshed",), ("--proxy-admin-port",)),
    "describe service": (("--ignoreUnmeshed",), ("--proxy-admin-port",)),
    "install": (("--verify",), ()),
    "upgrade": (("--verify",), ()),
    "proxy-status": ((), ("--xds-port", "--timeout", "--proxy-admin-port")),
    "tag generate": (("-y", "--overwrite"), ("--webhook-name",)),
    "tag set": (("-y", "--skip-confirmation"), ("--webhook-name",)),
    "version": ((), ("-r", "--revision")),
}
"""Command: flags and options of istioctl that are taken and mean nothing here."""
_BOOLEAN: Final = re.compile(r"(--?[A-Za-z][\w-]*)=(true|false|1|0)", re.IGNORECASE)


def known_elsewhere(path: str) -> UsageError | None:
    """What to say of a command that istioctl has and this program has not."""
    found = REPLACED.get(path)
    return UsageError(f"{path}: {found[0]}", hint=found[1]) if found else None


def understood(command: click.Command, path: str, args: list[str]) -> list[str]:
    """Let a command take istioctl's options; its arguments with booleans as click writes them."""
    if isinstance(command, click.Group):
        return args
    _tolerate(command, path)
    flags = {
        name: one
        for one in command.params
        if isinstance(one, click.Option) and one.is_flag
        for name in one.opts
    }
    end = args.index("--") if "--" in args else len(args)
    return [*(new for one in args[:end] for new in _boolean(one, flags)), *args[end:]]


def _boolean(word: str, flags: dict[str, click.Option]) -> list[str]:
    """``--wait=false`` is ``--no-wait``, or nothing where that is how it is anyway."""
    found = _BOOLEAN.fullmatch(word)
    option = flags.get(found[1]) if found else None
    if found is None or option is None:
        return [word]
    if found[2].lower() in ("true", "1"):
        return [found[1]]
    return option.secondary_opts[-1:]


def _tolerate(command: click.Command, path: str) -> None:
    taken = {name for one in command.params for name in one.opts}
    flags, options = CHANGES_NOTHING.get(path, ((), ()))
    hidden: Any = {"hidden": True, "expose_value": False}
    for name in (*flags, *options, *EVERYWHERE):
        if name not in taken:
            variable = f"tolerated_{name.strip('-').replace('-', '_')}"
            one = click.Option([name, variable], is_flag=name in flags, **hidden)
            command.params.append(one)
    if "-i" not in taken and "-c" in taken:
        command.params.append(click.Option(["-i", "--istioNamespace", "tolerated_i"], **hidden))
