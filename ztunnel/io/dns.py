"""The DNS proxy of one pod (port 15053): names of the mesh are answered, the rest is passed on.

It listens on the loopback addresses that the pod has. What is passed on goes to the resolver that
the application asked, found in the kernel's connection table, so that a pod's own ``dnsConfig``
stays true; where that is unknown, to the servers of our own resolv.conf.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

import trio

from ambient.api.address import HostPort
from ambient.api.errors import MeshError
from ambient.api.ports import DNS_PORT
from ambient.hbone.core.counters import Counters
from ambient.net.io.bpf_flows import DatagramNotes
from ambient.net.io.conntrack import UdpFlows
from ambient.net.io.datagrams import bind_in, is_free_in, loopbacks_in
from ambient.net.io.sockets import (
    connect_in,
    host_port,
    listen_in,
    local_address,
    original_destination,
)
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ztunnel.core import names
from ztunnel.core.dns_message import (
    MAX_BYTES,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    UDP_BYTES,
    ZONE_TRANSFERS,
    MalformedError,
    Query,
    address_reply,
    error_reply,
    fit,
    frame,
    parse_query,
)
from ztunnel.core.names import Answer, Asker, Zone
from ztunnel.io.accept import Acceptor, last_handshakes
from ztunnel.io.dns_metrics import DnsLabels
from ztunnel.io.dns_stream import MessageStream
from ztunnel.io.dns_upstream import NoAnswerError, Upstream
from ztunnel.io.node import Node, PodParts

MOST_FORWARDED: Final = 512
"""Queries of one pod that wait for another resolver; each has a socket. More are refused."""
MOST_CONNECTIONS: Final = 128
"""TCP connections of one pod."""
MOST_PIPELINED: Final = 16
"""Queries of one connection that are being answered."""
MOST_SERVERS: Final = 3  # MAXNS of <resolv.h>
IDLE_S: Final = 5.0  # ztunnel's, for TCP clients
_DATAGRAMS_A_TURN: Final = 64
"""Then others get their turn."""
_NOBODY: Final = {socket.AF_INET: ("127.0.0.1", 1), socket.AF_INET6: ("::1", 1)}

log = get_logger("dns")


class _Call(NamedTuple):
    """A query on its way to its answer."""

    query: Query
    protocol: str
    labels: DnsLabels

    @property
    def limit(self) -> int:
        """The longest answer that its client takes."""
        return min(self.query.udp_bytes, UDP_BYTES) if self.protocol == "udp" else MAX_BYTES


class DnsProxy:
    """Serves one pod from ``run`` until its event."""

    def __init__(
        self, node: Node, pod: PodParts, udp: list[socket.socket], tcp: list[socket.socket]
    ) -> None:
        settings = node.settings
        self._node = node
        self._pod = pod
        self._hosts = [sock.getsockname()[0] for sock in udp]
        self._udp = udp
        self._tcp = tcp
        self._zone = Zone(
            settings.cluster_domain, settings.prefered_service_namespace, settings.ipv6_enabled
        )
        self._upstream = Upstream(pod.netns, settings.mark)
        self._flows = UdpFlows(pod.netns)
        self._notes = DatagramNotes(pod.netns, settings.bpf_dir)
        self._forwarded = 0
        self._reading: set[trio.CancelScope] = set()

    async def run(self, stopping: trio.Event) -> None:
        """Answer until ``stopping``; then only what has been asked already."""
        async with trio.open_nursery() as work:
            acceptors = [Acceptor(sock, self._connection, work) for sock in self._tcp]
            async with trio.open_nursery() as listening:
                for sock in self._udp:
                    listening.start_soon(self._datagrams, sock, work)
                for acceptor in acceptors:
                    listening.start_soon(acceptor.run)
                await stopping.wait()
                await last_handshakes(self._pod.netns, (DNS_PORT,))
                listening.cancel_scope.cancel()
            for acceptor in acceptors:
                acceptor.close()
            for scope in self._reading:
                scope.cancel()
            for sock in self._udp:
                self._take_last(sock, work)

    def close(self) -> None:
        """Afterwards clients that keep their sockets find whoever serves them now."""
        for sock in (*self._udp, *self._tcp):
            sock.close()
        with suppress(OSError):
            if all(is_free_in(self._pod.netns, host, DNS_PORT) for host in self._hosts):
                self._flows.forget(DNS_PORT)
        self._flows.close()
        self._notes.close()

    # UDP

    async def _datagrams(self, sock: socket.socket, work: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            self._take(sock, work, _DATAGRAMS_A_TURN)

    def _take_last(self, sock: socket.socket, work: trio.Nursery) -> None:
        """Queries in our queue are ours; from now on a successor on the port gets them.

        A connected socket hears only its peer, and can still send to everybody.
        """
        with suppress(OSError):
            sock.connect(_NOBODY[sock.family])
        self._take(sock, work, MOST_FORWARDED)

    def _take(self, sock: socket.socket, work: trio.Nursery, most: int) -> None:
        for _ in range(most):
            try:
                data, peer = sock.recvfrom(MAX_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error of an earlier send
            try:
                self._datagram(sock, data, peer, work)
            except Exception as error:  # a fault of ours must not end the pod's DNS
                log.exception(Event.DNS_CRASHED, error=repr(error))

    def _datagram(
        self, sock: socket.socket, data: bytes, peer: tuple[str, int], work: trio.Nursery
    ) -> None:
        try:
            query = parse_query(data)
        except MalformedError as error:
            self._reject(error, "udp")
            _send(sock, error.reply, peer)
            return
        call = self._called(query, "udp")
        reply = self._from_mesh(call)
        if reply is None:
            original = self._asked(host_port(*peer[:2]), local_address(sock))
            reply = self._refusal(call, original)
            if reply is None:
                work.start_soon(self._forward_datagram, sock, call, original, peer)
                return
        _send(sock, reply, peer)

    def _asked(self, client: HostPort, reached: HostPort) -> HostPort | None:
        """The resolver that the client asked, by whichever redirection brought it here."""
        translated = _usable(self._flows.original_destination(client, reached))
        return translated or _usable(self._notes.original_destination(client))

    async def _forward_datagram(
        self, sock: socket.socket, call: _Call, original: HostPort | None, peer: tuple[str, int]
    ) -> None:
        try:
            reply = await self._forward(call, original)
        except Exception as error:  # a fault of ours must not end the pod's DNS
            log.exception(Event.DNS_CRASHED, error=repr(error))
            reply = error_reply(call.query, SERVFAIL)
        _send(sock, reply, peer)

    # TCP

    async def _connection(self, sock: socket.socket) -> None:
        """Answer one client's messages, several at a time, in the order in which they are ready."""
        try:
            original = _usable(original_destination(sock))
        except OSError:
            return  # gone before we got to it
        if len(self._reading) >= MOST_CONNECTIONS:
            log.debug(Event.DNS_REFUSED, reason="too many connections", **self._source())
            return
        stream = MessageStream(sock)
        async with trio.open_nursery() as answering:
            transfer = await self._messages(stream, original, answering)
        if transfer is not None and original is not None:
            await self._pass_through(sock, frame(transfer) + stream.rest, original)

    async def _messages(
        self, stream: MessageStream, original: HostPort | None, answering: trio.Nursery
    ) -> bytes | None:
        """Start an answer to each message; returns the message that asks for a zone transfer."""
        free = trio.Semaphore(MOST_PIPELINED)
        with trio.CancelScope() as scope:
            self._reading.add(scope)
            try:
                while (data := await _next_message(stream, free)) is not None:
                    try:
                        query = parse_query(data)
                    except MalformedError as error:
                        self._reject(error, "tcp")
                        if error.reply is not None:
                            await _answer(stream, error.reply)
                        return None  # whatever this client speaks, it is not DNS
                    if query.kind in ZONE_TRANSFERS and original is not None:
                        return data
                    await free.acquire()
                    call = self._called(query, "tcp")
                    answering.start_soon(self._answer_message, stream, call, original, free)
            except trio.BrokenResourceError:
                pass  # the client is gone
            finally:
                self._reading.discard(scope)
        return None

    async def _answer_message(
        self,
        stream: MessageStream,
        call: _Call,
        original: HostPort | None,
        free: trio.Semaphore,
    ) -> None:
        try:
            reply = self._from_mesh(call) or self._refusal(call, original)
            if reply is None:
                reply = await self._forward(call, original)
            await _answer(stream, reply)
        finally:
            free.release()

    async def _pass_through(self, sock: socket.socket, begun: bytes, resolver: HostPort) -> None:
        """A zone transfer has as many messages as it likes: the resolver gets the connection."""
        try:
            upstream = await connect_in(self._pod.netns, resolver, mark=self._node.settings.mark)
        except MeshError as error:
            log.debug(Event.DNS_FAILED, result=str(error), **self._source())
            return
        with upstream, suppress(trio.BrokenResourceError, OSError):
            await MessageStream(upstream).send_bytes(begun)
            await self._node.relay.splice(sock, upstream, Counters())

    # Both

    def _called(self, query: Query, protocol: str) -> _Call:
        source = self._node.view.find(self._pod.info)
        labels = DnsLabels.of(query.kind_name, protocol, source)
        self._node.dns_metrics.request(labels)
        return _Call(query, protocol, labels)

    def _from_mesh(self, call: _Call) -> bytes | None:
        """The answer that needs nobody else."""
        query = call.query
        if not query.is_standard or self._node.settings.xds_on_demand:
            return None  # on demand, what we know of a name may be half of the truth
        found = names.resolve(
            self._node.view.state, self._zone, self._asker(), query.name, query.kind
        )
        if not isinstance(found, Answer):
            return None
        addresses = random.sample(found.addresses, len(found.addresses))
        result = "success" if addresses else "no records"
        self._tell(Event.DNS_ANSWERED, call, result, len(addresses))
        return address_reply(query, found.alias, addresses, names.TTL_S, call.limit)

    def _refusal(self, call: _Call, original: HostPort | None) -> bytes | None:
        """What is sent instead of passing the query on; None: it may be."""
        query = call.query
        if query.opcode and original is None:
            return error_reply(query, NOTIMP)  # an update is for one server, and that is unknown
        if query.kind in ZONE_TRANSFERS and call.protocol == "tcp":
            return error_reply(query, REFUSED)
        if self._forwarded >= MOST_FORWARDED:
            self._tell(Event.DNS_REFUSED, call, "too many queries wait for an answer")
            return error_reply(query, REFUSED)
        return None

    async def _forward(self, call: _Call, original: HostPort | None) -> bytes:
        """Another resolver's answer, or that there is none."""
        metrics, started_s = self._node.dns_metrics, trio.current_time()
        metrics.forwarded(call.labels)
        ask = self._upstream.ask_over_udp
        if call.protocol == "tcp":
            ask = self._upstream.ask_over_tcp
        self._forwarded += 1
        failed = True
        try:
            data = await ask(call.query, self._resolvers(original))
            failed = False
        except NoAnswerError as error:
            self._tell(Event.DNS_FAILED, call, str(error))
            return error_reply(call.query, SERVFAIL)
        finally:
            self._forwarded -= 1
            metrics.answered(call.labels, trio.current_time() - started_s, failed=failed)
        self._tell(Event.DNS_FORWARDED, call, "forwarded", int.from_bytes(data[6:8], "big"))
        return fit(call.query, data, call.limit)

    def _resolvers(self, original: HostPort | None) -> tuple[HostPort, ...]:
        if original is not None:
            return (original,)
        servers = self._node.resolver.servers()[:MOST_SERVERS]
        if not servers:
            log.warning(Event.DNS_NO_RESOLVER, **self._source())
        return tuple(servers)

    def _asker(self) -> Asker:
        info, view = self._pod.info, self._node.view
        source = view.find(info)
        # Before the control plane has told about the pod, its names are answered all the same.
        return Asker(info.namespace, source.network if source else view.network)

    def _reject(self, error: MalformedError, protocol: str) -> None:
        log.debug(Event.DNS_MALFORMED, reason=str(error), protocol=protocol, **self._source())

    def _tell(self, event: Event, call: _Call, result: str, endpoints: int = 0) -> None:
        query = call.query
        log.debug(
            event,
            **self._source(),
            query=query.kind_name.upper(),
            domain=query.name,
            result=result,
            endpoints=endpoints,
        )

    def _source(self) -> dict[str, str]:
        return {"src.workload": self._pod.info.name, "src.namespace": self._pod.info.namespace}


def open_dns(node: Node, pod: PodParts) -> DnsProxy:
    """Bind the pod's DNS ports. Raises OSError."""
    with ExitStack() as opened:
        udp, tcp = [], []
        options = node.listen_options._replace(transparent=False)
        for host in loopbacks_in(pod.netns, ipv6=node.settings.ipv6_enabled):
            udp.append(opened.enter_context(bind_in(pod.netns, host, DNS_PORT, options)))
            listener = listen_in(pod.netns, DNS_PORT, options._replace(host=host))
            tcp.append(opened.enter_context(listener.socket))
        proxy = DnsProxy(node, pod, udp, tcp)
        opened.pop_all()
        return proxy


def _usable(original: HostPort | None) -> HostPort | None:
    """Whoever speaks to our port by its number has asked no resolver in particular."""
    return None if original is None or original.port == DNS_PORT else original


async def _next_message(stream: MessageStream, free: trio.Semaphore) -> bytes | None:
    """None where the client has ended, or is silent and has no answer to come."""
    while True:
        with trio.move_on_after(IDLE_S):
            return await stream.receive()
        if free.value == MOST_PIPELINED:
            return None


async def _answer(stream: MessageStream, reply: bytes) -> None:
    """A client that is gone gets none, and one that does not read loses its connection."""
    with suppress(trio.BrokenResourceError):
        with trio.move_on_after(IDLE_S):
            await stream.send(reply)
            return
        stream.abandon()


def _send(sock: socket.socket, reply: bytes | None, peer: tuple[str, int]) -> None:
    """As UDP does: what cannot be sent is lost, and asked for again."""
    if reply is not None:
        with suppress(OSError):
            sock.sendto(reply, peer)
