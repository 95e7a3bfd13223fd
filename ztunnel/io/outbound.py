"""Captured outbound connections (port 15001): decide the next hop, open it, hand over.

The application's bytes are read only once the next hop has accepted. So a next hop that cannot be
reached costs nothing but time, and another endpoint is tried before the application hears of it.
"""

from __future__ import annotations

import random
import socket

import trio

from ambient.api.address import HostPort
from ambient.api.errors import MeshError
from ambient.api.workload import Workload
from ambient.net.io.sockets import original_destination, peer_address, tune
from ambient.telemetry.core.access_record import Direction
from ztunnel.core import describe
from ztunnel.core.route import NoRoute, Route, route
from ztunnel.io.demand import prepare
from ztunnel.io.failures import ConnectionFailedError, reset
from ztunnel.io.node import Node, PodParts
from ztunnel.io.way import Leg, Way


class Client:
    """The application's side of a connection that we carry for it."""

    def __init__(self, sock: socket.socket, peer: HostPort, original: HostPort) -> None:
        self.sock = sock
        self.peer = peer
        self.original = original

    async def connected(self) -> None:
        """The next hop has accepted; bytes follow."""

    async def failed(self, error: MeshError | OSError) -> None:
        """There is no next hop. To the application that is a connection that failed."""
        reset(self.sock)


async def handle(node: Node, pod: PodParts, sock: socket.socket) -> None:
    """Carry one captured connection to its end."""
    try:
        peer, original = peer_address(sock), original_destination(sock)
    except OSError:
        return  # gone before we got to it
    await carry(node, pod, Client(sock, peer, original))


async def carry(node: Node, pod: PodParts, client: Client) -> None:
    """Take a connection to wherever its destination leads, and stay with it to its end."""
    started_s = trio.current_time()
    try:
        workload = await pod.identity.workload()
        if node.demand is not None:
            await prepare(node.demand, node.view.state, workload, client.original)
        hop = _first_hop(node, workload, client.original)
    except MeshError as error:
        attempt = describe.attempt(Direction.OUTBOUND, client.peer, client.original)
        node.connections.refuse(attempt, error)
        await client.failed(error)
        return
    tune(client.sock, node.keep_alive)
    await _follow(node, pod, client, workload, hop, started_s)


async def _follow(
    node: Node, pod: PodParts, client: Client, workload: Workload, hop: Route, started_s: float
) -> None:
    """Open the hop (or another one) and relay; the connection has its log line however it ends."""
    way = Way(node, pod, workload, client.peer, client.original)
    leg: Leg | MeshError | OSError
    try:
        hop, leg = await way.reach(hop)
    except (MeshError, OSError) as error:
        hop, leg = way.hop or hop, error
    except trio.Cancelled:
        described = describe.outbound(workload, client.peer, way.hop or hop)
        with node.connections.open(pod.info, described, hop.protocol, started_s):
            raise  # a drain; it has its line, too
    far = None if isinstance(leg, Exception) else leg.far
    described = describe.outbound(workload, client.peer, hop, far)
    with node.connections.open(pod.info, described, hop.protocol, started_s) as live:
        live.reason = hop.reason
        if isinstance(leg, Exception):
            await client.failed(leg)
            raise leg
        if leg.peer is not None:
            live.record.destination.identity = leg.peer
        try:
            await client.connected()
        except BaseException:
            leg.drop()
            raise
        try:
            await leg.carry(client.sock, live.counters)
        except (MeshError, OSError):
            reset(client.sock)
            raise


def _first_hop(node: Node, workload: Workload, original: HostPort) -> Route:
    found = route(
        node.view.state, workload, original, random.random, illegal=node.settings.own_ports
    )
    if isinstance(found, NoRoute):
        raise ConnectionFailedError(found.reason, hint=found.hint)
    return found
