"""HBONE connections to a pod (port 15008): a tunnel each, many connections in it."""

from __future__ import annotations

import socket

from ambient.api.address import HostPort, IPAddress, NetworkAddress, parse_ip
from ambient.api.errors import MeshError
from ambient.api.workload import Workload
from ambient.hbone.core import proxy_status
from ambient.hbone.core.errors import ConnectionLostError
from ambient.hbone.io.server import serve
from ambient.hbone.io.stream import HboneStream
from ambient.net.core import proxy_header
from ambient.net.io.sockets import connect_in, local_address, peer_address, tune
from ambient.telemetry.core.access_record import Direction
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ztunnel.core import describe
from ztunnel.core.admit import UNAVAILABLE, Caller, Denial, Permit, admit_connect
from ztunnel.core.headers import (
    BAGGAGE,
    Headers,
    baggage,
    forwarded_host,
    forwarded_network,
    read_baggage,
)
from ztunnel.io.failures import ConnectionFailedError, DeniedError, denied
from ztunnel.io.node import Node, PodParts

log = get_logger("inbound")


async def handle(node: Node, pod: PodParts, sock: socket.socket, *, keep_source: bool) -> None:
    """Serve one accepted tunnel until it ends; each CONNECT in it is a connection of its own."""
    try:
        peer, local = peer_address(sock), local_address(sock)
    except OSError:
        return  # gone before we got to it
    attempt = describe.attempt(Direction.INBOUND, peer, local)
    try:
        server = await pod.identity.workload()
        tls = await node.certs.server_context(server.identity)
        tune(sock, None)

        async def stream(one: HboneStream) -> None:
            await _Connect(node, pod, one, peer, local).run(keep_source)

        await serve(node.relay, sock, tls, stream, pod.drain)
    except ConnectionLostError as error:
        log.debug(Event.TUNNEL_LOST, peer=str(peer), error=str(error))
    except MeshError as error:
        node.connections.refuse(attempt, error)


class _Connect:
    """One CONNECT request."""

    def __init__(
        self, node: Node, pod: PodParts, stream: HboneStream, peer: HostPort, local: HostPort
    ) -> None:
        self._node = node
        self._pod = pod
        self._stream = stream
        self._peer = peer
        self._local = local

    async def run(self, keep_source: bool) -> None:
        """Decide, dial, answer, hand over."""
        node, stream = self._node, self._stream
        source = parse_ip(self._peer.host)
        assert source is not None  # the kernel says where a connection comes from
        request = stream.request
        caller = Caller(
            identity=stream.peer,
            ip=source,
            authority=request.authority,
            forwarded_host=forwarded_host(request.headers),
        )
        try:
            server = await self._pod.identity.workload()
        except MeshError as error:
            self._refuse(UNAVAILABLE, error)
            return
        decision = admit_connect(
            node.view.state,
            server,
            caller,
            self._local,
            localhost_tunnel=node.settings.localhost_app_tunnel,
        )
        if isinstance(decision, Denial) and decision.verdict is None:
            self._refuse(decision.status, DeniedError(decision))
            return
        facts = describe.Inbound(
            client=self._client(source),
            server=server,
            peer=self._peer,
            local=self._local,
            identity=stream.peer,
            authority=request.authority,
            service=decision.service,
        )
        described = describe.inbound(facts)
        with node.connections.open(self._pod.info, described, "HBONE") as live:
            if isinstance(decision, Denial):
                refusal = denied(node.view.state, server, decision)
                stream.refuse(decision.status, (proxy_status.denied(refusal.reason),))
                raise refusal
            node.connections.admitted(live, server, decision)
            try:
                upstream = await self._dial(decision, source if keep_source else None)
            except MeshError:
                stream.refuse(UNAVAILABLE)
                raise
            stream.accept(self._response_headers(server))
            await stream.couple(upstream, live.counters)

    async def _dial(self, permit: Permit, source: IPAddress | None) -> socket.socket:
        """The application, which knows who is calling where it asked for that.

        Raises ConnectError, ConnectionFailedError.
        """
        node = self._node
        upstream = await connect_in(
            self._pod.netns,
            permit.upstream,
            mark=node.settings.mark,
            bind_source=source if permit.keep_source else None,
            keep_alive=node.keep_alive,
        )
        if permit.proxied is not None:
            header = proxy_header.encode(self._peer, permit.proxied, self._stream.peer)
            try:
                sent = upstream.send(header)  # the first bytes on the socket: its buffer is empty
            except OSError:
                sent = 0
            if sent != len(header):
                upstream.close()
                text = f"the application at {permit.upstream} took no PROXY header"
                raise ConnectionFailedError(text, hint="does it listen there for PROXY protocol?")
        return upstream

    def _client(self, source: IPAddress) -> Workload | None:
        """Who calls, for telemetry. An address of another network says nothing here."""
        node, headers = self._node, self._stream.request.headers
        told = read_baggage(headers) if node.settings.enable_response_baggage else None
        network = forwarded_network(headers)
        if network is not None and network.lower() != node.view.network.lower():
            return told
        address = NetworkAddress(node.view.network, source)
        return describe.client_of(node.view.state.workload_by_address(address), told)

    def _refuse(self, status: int, error: MeshError) -> None:
        attempt = describe.attempt(Direction.INBOUND, self._peer, self._local)
        self._node.connections.refuse(attempt, error)
        self._stream.refuse(status)

    def _response_headers(self, server: Workload) -> Headers:
        if not self._node.settings.enable_response_baggage:
            return ()
        return ((BAGGAGE, baggage(server)),)
