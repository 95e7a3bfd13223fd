"""Calls of the waypoint's own to services of the mesh: authorizers, rate limits, collectors.

They go where traffic goes: endpoints as the mesh knows them, over the waypoint's own tunnels.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final, NamedTuple
from typing import Protocol as Interface

import trio

from ambient.api.address import HostPort
from waypoint.core.cluster import Cluster
from waypoint.core.codec import Codec
from waypoint.core.decision import Upstream
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Destination, Protocol, Self
from waypoint.core.grpc import GrpcStatus, status_of_http
from waypoint.core.host import Host
from waypoint.core.http1 import BadMessageError
from waypoint.core.message import End, Headers, Peer, Reply, Request, Response
from waypoint.core.plan import resolve
from waypoint.core.program import Program
from waypoint.core.providers import Address
from waypoint.core.routes import Backend
from waypoint.io.upstream import Upstreams
from waypoint.io.upstream_stream import UpstreamResetError, UpstreamStream

MAX_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of a body that we read to its end."""
_NOBODY: Final = Peer(None, ip_address("0.0.0.0"))
GRPC_HEAD: Final = 5
"""A message is preceded by a flag and its length (gRPC over HTTP/2)."""


class Mesh(Interface):
    """What a call needs to know: the waypoint's ``Service`` provides it."""

    own: Self
    directory: Directory
    upstreams: Upstreams
    program: Program

    def cluster(self, upstream: Upstream) -> Cluster:
        """What is known of the endpoints of an upstream."""
        ...


class CallError(Exception):
    """A call that got no answer that can be used; ``status`` is gRPC's."""

    def __init__(self, text: str, status: GrpcStatus = GrpcStatus.UNAVAILABLE) -> None:
        super().__init__(text)
        self.status = status


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: Headers
    body: bytes
    trailers: tuple[tuple[str, str], ...] = ()


class MeshCalls:
    """Makes calls; each has a time limit and raises CallError."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def knows(self, at: Address) -> bool:
        """Whether the mesh has such a service."""
        return isinstance(self._upstream(at), Upstream)

    async def http(
        self, at: Address, request: Request, body: bytes, timeout_s: float, *, http2: bool = False
    ) -> Answer:
        """One HTTP exchange; ``request``'s framing follows from ``body``."""
        request.has_body, request.content_length = bool(body), len(body)
        with trio.move_on_after(timeout_s):
            try:
                return await self._exchange(at, request, body, http2)
            except UpstreamResetError as error:
                raise CallError(f"{at}: {error}") from None
            except BadMessageError as bad:
                raise CallError(f"{at}: {bad.details}") from None
        raise CallError(f"{at}: no answer in {timeout_s:g} s", GrpcStatus.DEADLINE_EXCEEDED)

    async def grpc(
        self,
        at: Address,
        path: str,
        message: bytes,
        timeout_s: float,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> bytes:
        """One unary gRPC call."""
        request = make_request("POST", path, str(at), metadata)
        request.headers.set("content-type", "application/grpc")
        request.headers.set("te", "trailers")
        request.headers.set("grpc-timeout", f"{max(1, min(99999999, round(timeout_s * 1000)))}m")
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        answer = await self.http(at, request, framed, timeout_s, http2=True)
        said = dict(answer.trailers)
        status = said.get("grpc-status") or answer.headers.first("grpc-status")
        if answer.status != 200:
            raise CallError(f"{at}: HTTP status {answer.status}", status_of_http(answer.status))
        if status != "0":
            text = said.get("grpc-message") or answer.headers.first("grpc-message") or ""
            raise CallError(f"{at}: gRPC status {status} {text}".rstrip(), _status(status))
        size = int.from_bytes(answer.body[1:GRPC_HEAD], "big")
        if answer.body[:1] != b"\0" or len(answer.body) != GRPC_HEAD + size:
            raise CallError(f"{at}: the answer is not one message", GrpcStatus.INTERNAL)
        return answer.body[GRPC_HEAD:]

    def _upstream(self, at: Address) -> Upstream | Reply:
        mesh = self._mesh
        place = mesh.own.place
        backend = Backend(
            service=place.resolve(at.host, at.namespace or place.namespace), port=at.port
        )
        to = Destination(address=HostPort(at.host, at.port), protocol=Protocol.SNIFF)
        return resolve(backend, mesh.program, mesh.directory, to)

    async def _exchange(self, at: Address, request: Request, body: bytes, http2: bool) -> Answer:
        upstream = self._upstream(at)
        if isinstance(upstream, Reply):
            raise CallError(f"the mesh has no service {at}")
        cluster = self._mesh.cluster(upstream)
        host: Host | None = cluster.pick(trio.current_time(), None)
        if host is None:
            raise CallError(f"{at}: no healthy endpoint")
        codec = Codec.HTTP2 if http2 else Codec.HTTP1
        stream = await self._mesh.upstreams.open(cluster, host, codec)
        try:
            stream.begin(request)
            if body:
                stream.data(body)
                stream.end()
            await stream.flush()
            answer = await _read(stream)
            stream.release()
            return answer
        finally:
            stream.reset()  # does nothing after a release


async def _read(stream: UpstreamStream) -> Answer:
    head: Response | None = None
    body = bytearray()
    while True:
        for event in await stream.receive():
            match event:
                case Response() if event.informational:
                    continue
                case Response():
                    head = event
                    if event.end:
                        return Answer(head.status, head.headers, b"")
                case End():
                    assert head is not None
                    return Answer(head.status, head.headers, bytes(body), event.trailers)
                case _:
                    body += event
        if len(body) > MAX_ANSWER:
            raise CallError(f"an answer of more than {MAX_ANSWER} bytes")


def make_request(
    method: str, target: str, authority: str, headers: tuple[tuple[str, str], ...] = ()
) -> Request:
    """A request of our own."""
    return Request(
        method=method,
        target=target,
        authority=authority,
        headers=Headers(headers),
        peer=_NOBODY,
        local=HostPort(authority, 0),
    )


def _status(text: str | None) -> GrpcStatus:
    try:
        return GrpcStatus(int(text or "2"))
    except ValueError:
        return GrpcStatus.UNKNOWN
