"""What a client wants of a running pod: its output, a port, a command in a container."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ambientctl.local.apiserver.core.requests import Request
from ambientctl.local.apiserver.core.status import Object, bad_request

UPGRADES: Final = ("websocket", "spdy/3.1")


class PodLog(NamedTuple):
    """A wish for the output of one container."""

    namespace: str
    pod: str
    container: str
    follow: bool
    previous: bool
    timestamps: bool
    tail_lines: int | None
    since_seconds: int | None
    limit_bytes: int | None


class PodPort(NamedTuple):
    """A wish for a connection to a port inside a pod; 0 where streams name theirs."""

    namespace: str
    pod: str
    port: int


class PodCommand(NamedTuple):
    """A wish for a command in a container; without one, for the container's own output."""

    namespace: str
    pod: str
    container: str
    command: tuple[str, ...]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


def log_wish(pod: Object, request: Request) -> PodLog:
    """Which container is meant; raises a 400 when that is open."""
    return PodLog(
        *_place(pod),
        _container(pod, request, init=True),
        request.flag("follow"),
        request.flag("previous"),
        request.flag("timestamps"),
        request.number("tailLines"),
        request.number("sinceSeconds"),
        request.number("limitBytes"),
    )


def port_wish(pod: Object, request: Request) -> PodPort:
    """Raises a 400 for what asks in another way."""
    port = request.number("ports")
    upgrade = _upgrade(request)
    offered = request.headers.get("sec-websocket-protocol", "")
    if upgrade == "websocket" and port is None and "SPDY" not in offered:
        raise bad_request("a WebSocket of channels leads to one port (?ports=N)")
    _require_running(pod)
    return PodPort(*_place(pod), port or 0)


def command_wish(pod: Object, request: Request, subresource: str) -> PodCommand:
    """Raises a 400 that says what is missing."""
    _upgrade(request)
    command = tuple(value for name, value in request.pairs if name == "command")
    if subresource == "exec" and not command:
        raise bad_request("you must specify at least 1 command for the container")
    if subresource == "attach":
        command = ()
        if request.flag("stdin"):
            raise bad_request(
                "containers of the local mesh have no standard input; use kubectl exec -i"
            )
    container = _container(pod, request)
    _require_running(pod)
    wish = PodCommand(
        *_place(pod),
        container,
        command,
        request.flag("stdin"),
        request.flag("stdout"),
        request.flag("stderr") and not request.flag("tty"),
        request.flag("tty"),
    )
    if not (wish.stdin or wish.stdout or wish.stderr):
        raise bad_request("at least one of stdin, stdout, stderr must be true")
    return wish


def _place(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _upgrade(request: Request) -> str:
    found = request.headers.get("upgrade", "").lower()
    if found not in UPGRADES:
        raise bad_request("unable to upgrade: the request asks for neither WebSocket nor SPDY/3.1")
    return found


def _container(pod: Object, request: Request, *, init: bool = False) -> str:
    name = pod["metadata"]["name"]
    names: list[Any] = [one["name"] for one in pod["spec"]["containers"]]
    every = list(names)
    if init:
        every += [one["name"] for one in pod["spec"].get("initContainers") or ()]
    container = request.query.get("container", "")
    if not container and len(names) > 1:
        raise bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
        )
    if container and container not in every:
        raise bad_request(f"container {container} is not valid for pod {name}")
    return container or str(names[0])


def _require_running(pod: Object) -> None:
    if (pod.get("status") or {}).get("phase") != "Running":
        raise bad_request(f"pod {pod['metadata']['name']} is not running")
