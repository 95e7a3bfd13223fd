"""Captured inbound connections without a tunnel (port 15006)."""

from __future__ import annotations

import socket

from ambient.api.address import NetworkAddress, parse_ip
from ambient.api.errors import MeshError
from ambient.net.io.sockets import connect_in, original_destination, peer_address, tune
from ambient.telemetry.core.access_record import Direction
from ztunnel.core import describe
from ztunnel.core.admit import Denial, admit_plaintext
from ztunnel.io.failures import DeniedError, denied, reset
from ztunnel.io.node import Node, PodParts


async def handle(node: Node, pod: PodParts, sock: socket.socket, *, keep_source: bool) -> None:
    """Carry one accepted connection to its end. A denial closes it without a byte."""
    try:
        peer, original = peer_address(sock), original_destination(sock)
    except OSError:
        return  # gone before we got to it
    attempt = describe.attempt(Direction.INBOUND, peer, original)
    source = parse_ip(peer.host)
    try:
        server = await pod.identity.workload()
        assert source is not None  # the kernel says where a connection comes from
        decision = admit_plaintext(node.view.state, server, source, original)
        if isinstance(decision, Denial) and decision.verdict is None:
            raise DeniedError(decision)
    except MeshError as error:
        node.connections.refuse(attempt, error)
        reset(sock)
        return
    tune(sock, node.keep_alive)
    facts = describe.Inbound(
        client=node.view.state.workload_by_address(NetworkAddress(node.view.network, source)),
        server=server,
        peer=peer,
        local=original,
        service=decision.service,
    )
    with node.connections.open(pod.info, describe.inbound(facts), "TCP") as live:
        try:
            if isinstance(decision, Denial):
                raise denied(node.view.state, server, decision)
            node.connections.admitted(live, server, decision)
            upstream = await connect_in(
                pod.netns,
                decision.upstream,
                mark=node.settings.mark,
                bind_source=source if keep_source else None,
                keep_alive=node.keep_alive,
            )
        except MeshError:
            reset(sock)
            raise
        # From the application to the client is "sent", as the access log counts.
        await node.relay.splice(upstream, sock, live.counters)
