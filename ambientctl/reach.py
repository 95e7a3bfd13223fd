"""Asking the programs of the mesh over their own ports, through the API server.

Admin ports listen on a pod's loopback only, so that requests go by ``pods/portforward``, as
istioctl's do; that works the same in the local mesh.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

import h11
import trio

from ambient.api.errors import MeshError, UnavailableError
from ambient.kube.core.objects import GATEWAY_NAME_LABEL
from ambient.kube.core.resources import PODS, KubeObject
from ambient.kube.io.client import KubeClient
from ambient.kube.io.port_forward import PodStream, forwarded

TUNNELS: Final = "app=ztunnel"
"""Selects the pods of node tunnels."""
ANSWER_S: Final = 60.0
"""Also a profile of ten seconds fits in."""
MAX_BODY_BYTES: Final = 512 * 1024 * 1024
READ_BYTES: Final = 64 * 1024


class PodPort(NamedTuple):
    """A port of a pod's loopback."""

    namespace: str
    pod: str
    port: int

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}:{self.port}"


async def ask(
    kube: KubeClient, at: PodPort, path: str, *, method: str = "GET", limit_s: float = ANSWER_S,
    body: bytes = b"",
) -> bytes:  # fmt: skip
    """The body of a 200. Raises MeshError with the program's words otherwise, UnavailableError
    where it cannot be reached.
    """
    found = await ask_dated(kube, at, path, method=method, limit_s=limit_s, body=body)
    return found[0]


async def ask_dated(
    kube: KubeClient, at: PodPort, path: str, *, method: str = "GET", limit_s: float = ANSWER_S,
    body: bytes = b"",
) -> tuple[bytes, str]:  # fmt: skip
    """The same, with the answer's Date: the program's clock."""
    try:
        with trio.fail_after(limit_s):
            async with forwarded(kube, at.namespace, at.pod, at.port) as stream:
                status, answer, date = await _exchange(stream, method, path, body)
    except (trio.TooSlowError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        silent = isinstance(error, trio.TooSlowError)
        reason = f"no answer within {limit_s:g} s" if silent else str(error) or "no answer"
        raise UnavailableError(
            f"{at}{path}: {reason}", hint=f"kubectl -n {at.namespace} logs {at.pod}"
        ) from error
    if status != 200:
        text = answer[:500].decode(errors="replace").strip().partition("\n")[0]
        raise MeshError(f"{at}{path} answers {status}: {text}")
    return answer, date


async def ask_json(
    kube: KubeClient, at: PodPort, path: str, *, method: str = "GET", limit_s: float = ANSWER_S
) -> Any:
    """The same, decoded. Raises MeshError where it is no JSON."""
    return decoded(await ask(kube, at, path, method=method, limit_s=limit_s), at, path)


def decoded(body: bytes, at: PodPort, path: str) -> Any:
    """An answer in JSON. Raises MeshError where it is none."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise MeshError(
            f"{at}{path} does not answer with JSON: {error}", hint="is it a program of this mesh?"
        ) from error


async def _exchange(
    stream: PodStream, method: str, path: str, sent: bytes
) -> tuple[int, bytes, str]:
    """Status, body and date."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "localhost"), ("Connection", "close"), ("Content-Length", str(len(sent)))]
    request = h11.Request(method=method, target=path, headers=headers)
    wire = connection.send(request) or b""
    wire += (connection.send(h11.Data(data=sent)) or b"") if sent else b""
    await stream.send_all(wire + (connection.send(h11.EndOfMessage()) or b""))
    status, body, date = 0, bytearray(), ""
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(READ_BYTES))
            case h11.Response(status_code=code, headers=told):
                status = code
                date = next((v.decode("latin-1") for name, v in told if name == b"date"), "")
            case h11.Data(data=data):
                body += data
                if len(body) > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError("the answer is too long")
            case h11.EndOfMessage() | h11.ConnectionClosed():
                return status, bytes(body), date
            case _:
                continue  # 1xx


async def running_pods(
    kube: KubeClient, namespace: str | None, selector: str, *, node: str = ""
) -> list[KubeObject]:
    """Running pods with labels, by name; of one node or of all."""
    fields = "status.phase=Running" + (f",spec.nodeName={node}" if node else "")
    found = await kube.list(PODS, namespace, selector, fields)
    alive = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
    return sorted(alive, key=lambda pod: (pod["metadata"]["namespace"], pod["metadata"]["name"]))


async def proxy_pods(kube: KubeClient) -> list[KubeObject]:
    """Running tunnels, then running waypoints. Raises MeshError where there is neither."""
    pods = [
        pod
        for selector in (TUNNELS, GATEWAY_NAME_LABEL)
        for pod in await running_pods(kube, None, selector)
    ]
    if not pods:
        raise MeshError("no ztunnel and no waypoint runs", hint="ambientctl check")
    return pods


def port_of(pod: KubeObject, port: int) -> PodPort:
    """A port of a pod that was listed."""
    return PodPort(pod["metadata"]["namespace"], pod["metadata"]["name"], port)
