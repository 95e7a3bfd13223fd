"""``ambientctl enroll`` and ``unenroll``: any process's network namespace into the mesh; of the
node's own network, what one systemd unit sends.

They run on the node, as root, and ask the node agent over its socket; the agent decides.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import click

from ambient.api.errors import MeshError, UnavailableError

DEFAULT_SOCKET: Final = "/var/run/istio-cni/pluginevent.sock"
TIMEOUT_S: Final = 30.0
"""Longer than the agent waits for the tunnel and for the API server."""


OUTBOUND_ONLY: Final = (
    "it has the node's own network, so only what it sends is in the mesh: what comes in reaches it "
    "as before, and neither STRICT nor a policy holds there (NetworkNamespacePath= would change "
    "that)"
)
CGROUPS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
"""Where systemd has the hierarchy of version 2: alone, or beside version 1."""


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("agent", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


socket_option = click.option(
    "--agent-socket", default=DEFAULT_SOCKET, show_default=True, help="Socket of the node agent."
)


@click.command()
@click.option("--pid", type=click.IntRange(min=1), help="A process in the namespace.")
@click.option("--netns", help="Path of the namespace, such as /run/netns/NAME.")
@click.option("--systemd-unit", help="A running unit; its main process counts.")
@click.option("--cgroup", help="A control group of the node's network; what it sends counts.")
@click.option("--identity", required=True, metavar="NAMESPACE/ACCOUNT", help="Service account.")
@click.option("--name", help="Name of its WorkloadEntry (default: the account's).")
@socket_option
def enroll(identity: str, name: str | None, agent_socket: str, **place: Any) -> None:
    """Bring a process's network namespace into the mesh, while it runs.

    New connections into it and out of it go through the node's tunnel, with the given identity;
    connections that are open stay as they are. Of a unit in the node's own network only what it
    sends can be captured, by eBPF.
    """
    namespace, account = _identity(identity)
    kind, path, value = _chosen(**place)
    device, inode = _place(path)
    body = {
        "name": name or account,
        "namespace": namespace,
        "service_account": account,
        "device": device,
        "inode": inode,
        kind: value,
    }
    answer = ask(agent_socket, "/enroll", body)
    guest = f"{answer['namespace']}/{answer['name']}"
    click.echo(f"{guest} at {', '.join(answer['addresses'])} is in the mesh as {identity}")
    if answer["outbound_only"]:
        click.echo(OUTBOUND_ONLY)
    if answer["workload_entry"]:
        click.echo(f"WorkloadEntry {guest} was made, and goes when it is unenrolled")


@click.command()
@click.argument("workload", metavar="NAMESPACE/NAME")
@socket_option
def unenroll(workload: str, agent_socket: str) -> None:
    """Take an enrolled process out of the mesh, while it runs.

    New connections are direct at once; those in the tunnel go on until they end.
    """
    namespace, name = _identity(workload)
    ask(agent_socket, "/unenroll", {"name": name, "namespace": namespace})
    click.echo(f"{workload} has left the mesh; connections in the tunnel go on until they end")


def _chosen(
    pid: int | None, netns: str | None, systemd_unit: str | None, cgroup: str | None
) -> tuple[str, str, int | str]:
    """How the agent calls the kind of place, its path, and what the agent is told."""
    if sum(choice is not None for choice in (pid, netns, systemd_unit, cgroup)) != 1:
        raise click.UsageError("choose one of --pid, --netns, --systemd-unit and --cgroup")
    if systemd_unit is not None:
        pid = main_process(systemd_unit)
        if _place(f"/proc/{pid}/ns/net") == _place("/proc/1/ns/net"):
            cgroup = control_group(systemd_unit)
    if cgroup is not None:
        return "cgroup", cgroup, os.path.realpath(cgroup)
    if netns is not None:
        return "netns", netns, os.path.abspath(netns)
    assert pid is not None  # one was chosen
    return "pid", f"/proc/{pid}/ns/net", pid


def _identity(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise MeshError(f"{text!r} is not NAMESPACE/NAME", hint="for example shop/billing")
    return namespace, name


def _place(path: str) -> tuple[int, int]:
    """Device and inode of a namespace or group. Raises MeshError."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        raise MeshError(f"{path} does not exist", hint="is the process still running?") from None
    except OSError as error:
        raise MeshError(f"{path}: {error.strerror}", hint="run it as root on the node") from None
    return info.st_dev, info.st_ino


def main_process(unit: str) -> int:
    """The unit's main process. Raises MeshError where it has none."""
    text = _property(unit, "MainPID")
    if not text.isdigit():
        raise MeshError(f"unit {unit}: systemctl answered {text!r}")
    if text == "0":
        raise MeshError(f"unit {unit} has no main process", hint=f"systemctl start {unit}")
    return int(text)


def control_group(unit: str) -> str:
    """Path of the running unit's control group of version 2. Raises MeshError."""
    name = _property(unit, "ControlGroup")
    paths = [f"{top}{name}" for top in CGROUPS if name]
    found = next((path for path in paths if os.path.exists(f"{path}/cgroup.events")), None)
    if found is None:
        raise MeshError(
            f"unit {unit} has no control group of version 2 (systemctl answered {name!r})",
            hint="it must run, and the machine have cgroup2 mounted",
        )
    return found


def _property(unit: str, name: str) -> str:
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        raise MeshError("this machine has no systemctl", hint="use --pid, --netns or --cgroup")
    command = [systemctl, "show", f"--property={name}", "--value", "--", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout.strip()
    if done.returncode != 0:
        reason = done.stderr.strip() or f"systemctl answered {text!r}"
        raise MeshError(f"unit {unit}: {reason}")
    return text


def ask(path: str, target: str, body: dict[str, Any]) -> dict[str, Any]:
    """The agent's answer. Raises MeshError with its words where it refuses."""
    connection = _UnixConnection(path)
    try:
        connection.request("POST", target, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode(errors="replace").strip()
    except PermissionError:
        raise MeshError(f"not allowed to use {path}", hint="run it as root on the node") from None
    except (OSError, HTTPException) as error:
        raise UnavailableError(
            f"no node agent on {path} ({error})",
            hint="is the DaemonSet istio-cni-node running on this node? Its CNI_AGENT_RUN_DIR "
            "may be another folder: --agent-socket",
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise MeshError(text)
    answer: dict[str, Any] = json.loads(text)
    return answer
