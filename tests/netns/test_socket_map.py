"""Sockets that a socket map joins behave like TCP: every byte, in order, both ways, to the end.

This process's namespace is the pod: a listener with the tunnel's mark on its port stands for the
tunnel's outbound side, a marked client for its inbound side.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from ambient.api.ports import OUTBOUND_PORT, PROXY_MARK
from ambient.net.io import socket_map
from ambient.net.io.bpf_flows import netns_cookie
from ambient.net.io.netns import Netns
from ambient.net.io.socket_map import Directions, SocketMap
from ambient.net.io.sockets import SO_MARK
from tests import bpf

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(bpf.unavailable()), reason=bpf.unavailable() or "-"),
]

APP_PORT = 18080
PATTERN = random.Random(1).randbytes(1 << 20)
MOST_BYTES = 600_000
SESSIONS = 30
RESET = struct.pack("ii", 1, 0)
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def own_cookie() -> int:
    with Netns.current() as here:
        return netns_cookie(here)


@pytest.fixture
def joined() -> Iterator[SocketMap]:
    """This namespace is a member, in both directions."""
    bpf.mount_bpf_fs()
    made = socket_map.open_socket_map("/proc")
    made.admit(own_cookie(), Directions.BOTH)
    yield made
    made.close()
    socket_map.remove_socket_map()


class Hop:
    """Where an application and its tunnel meet: ``outbound`` or ``inbound``."""

    def __init__(self, kind: str, family: int = socket.AF_INET) -> None:
        self.family = family
        self.tunnel_listens = kind == "outbound"
        self.port = OUTBOUND_PORT if self.tunnel_listens else APP_PORT
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.tunnel_listens:
            self.listener.setsockopt(socket.SOL_SOCKET, SO_MARK, PROXY_MARK)
        self.listener.setblocking(False)
        self.listener.bind((LOOPBACK[family], self.port))
        self.listener.listen(64)

    def __enter__(self) -> Hop:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def client(self) -> socket.socket:
        made = socket.socket(self.family)
        if not self.tunnel_listens:
            made.setsockopt(socket.SOL_SOCKET, SO_MARK, PROXY_MARK)
        made.settimeout(10)
        return made

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends: the application's and the tunnel's."""
        client = self.client()
        client.connect((LOOPBACK[self.family], self.port))
        server, _ = self.listener.accept()
        server.settimeout(10)
        return (client, server) if self.tunnel_listens else (server, client)


hops = pytest.mark.parametrize("kind", ["outbound", "inbound"])


class Reset(Exception):  # noqa: N818
    """The other end broke the connection off."""


class End:
    """One end of a session: a random sender and a random reader, with all they have seen."""

    def __init__(self, sock: socket.socket, seed: int, peer_seed: int, size: int) -> None:
        sock.setblocking(False)
        self.sock = trio.socket.from_stdlib_socket(sock)
        self.rng = random.Random(seed)
        self.seed, self.peer_seed, self.size = seed, peer_seed, size
        self.sent, self.received = 0, 0
        self.digest_out, self.digest_in = hashlib.sha256(), hashlib.sha256()

    async def _pause(self) -> None:
        if self.rng.random() < 0.2:
            await trio.sleep(self.rng.choice((0, 0, 0.001, 0.003)))

    async def send(self, breaks_at: int | None) -> None:
        while self.sent < self.size:
            if breaks_at is not None and self.sent >= breaks_at:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self.sock.close()
                return
            most = self.rng.choice((1, 7, 100, 1000, 5000, 20_000, 70_000, 200_000))
            chunk = stream(self.seed, self.sent, min(most, self.size - self.sent))
            count = await self.sock.send(chunk)
            self.digest_out.update(chunk[:count])
            self.sent += count
            await self._pause()
        self.sock.shutdown(socket.SHUT_WR)

    async def receive(self) -> None:
        while True:
            try:
                data = await self.sock.recv(self.rng.choice((1, 10, 300, 4096, 65_536)))
            except ConnectionResetError:
                raise Reset from None
            if not data:
                return
            assert data == stream(self.peer_seed, self.received, len(data)), "bytes out of order"
            self.digest_in.update(data)
            self.received += len(data)
            await self._pause()

    async def run(self, breaks_at: int | None) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.receive)
                nursery.start_soon(self.send, breaks_at)
        except* (Reset, OSError, trio.ClosedResourceError):
            pass
        self.sock.close()


def stream(seed: int, offset: int, size: int) -> bytes:
    """What an end says at this place of its stream; different for every end."""
    begin = seed * 7919 % (len(PATTERN) - MOST_BYTES) + offset
    return PATTERN[begin : begin + size]


async def session(hop: Hop, seed: int, break_off: bool) -> None:
    rng = random.Random(seed)
    ends = hop.pair()
    sizes = [rng.choice((0, 1, 2000, rng.randrange(MOST_BYTES))) for _ in ends]
    a = End(ends[0], 2 * seed, 2 * seed + 1, sizes[0])
    b = End(ends[1], 2 * seed + 1, 2 * seed, sizes[1])
    breaks_at = rng.randrange(sizes[0] + 1) if break_off else None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.run, breaks_at)
        nursery.start_soon(b.run, None)
    if break_off:
        assert b.received <= a.sent
        return
    assert (a.sent, b.sent) == (b.received, a.received) == tuple(sizes)
    assert a.digest_out.digest() == b.digest_in.digest()
    assert b.digest_out.digest() == a.digest_in.digest()


@hops
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_random_talks_arrive_byte_by_byte(joined: SocketMap, kind: str, family: int) -> None:
    """Sizes, pauses, half closes; from the first byte on, whoever speaks first."""
    with Hop(kind, family) as hop, trio.fail_after(60):
        for first in range(0, SESSIONS, 6):
            async with trio.open_nursery() as nursery:
                for seed in range(first, first + 6):
                    nursery.start_soon(session, hop, seed, False)
    counts = joined.counts()
    assert counts["joined"] == SESSIONS
    assert counts["crowded"] > 0, "no receiver was ever slow: the test is too kind"
    assert counts["late"] == counts["alone"] == 0
    assert joined.sockets() == 0, "closed sockets leave the map"


@hops
async def test_random_talks_that_are_broken_off(joined: SocketMap, kind: str) -> None:
    with Hop(kind) as hop, trio.fail_after(60):
        for first in range(0, SESSIONS, 6):
            async with trio.open_nursery() as nursery:
                for seed in range(first, first + 6):
                    nursery.start_soon(session, hop, seed, True)
    assert joined.counts()["joined"] == SESSIONS
    assert joined.sockets() == 0


@hops
async def test_taking_it_off_the_node_keeps_live_connections(joined: SocketMap, kind: str) -> None:
    """Programs, maps and names go while sessions talk; new ones are plain TCP."""
    with Hop(kind) as hop, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for seed in range(12):
                nursery.start_soon(session, hop, seed, False)
            await trio.sleep(0.01)
            assert joined.counts()["joined"] == 12
            joined.close()
            socket_map.remove_socket_map()
            for seed in range(12, 18):
                nursery.start_soon(session, hop, seed, False)


@hops
def test_the_pair_is_carried_by_the_map_and_not_by_tcp(joined: SocketMap, kind: str) -> None:
    with Hop(kind) as hop:
        application, tunnel = hop.pair()
        with application, tunnel:
            for _ in range(10):
                application.sendall(b"question")
                assert tunnel.recv(100) == b"question"
                tunnel.sendall(b"answer")
                assert application.recv(100) == b"answer"
            assert bytes_by_tcp(application) == bytes_by_tcp(tunnel) == 0
            assert joined.sockets() == 2


def bytes_by_tcp(sock: socket.socket) -> int:
    """What this end has sent in segments: tcpi_bytes_sent."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    sent: int = struct.unpack_from("=Q", info, 200)[0]
    return sent


@hops
def test_what_may_be_carried_is_the_pods_choice(joined: SocketMap, kind: str) -> None:
    joined.admit(own_cookie(), Directions.FROM_APPLICATION)
    with Hop(kind) as hop:
        application, tunnel = hop.pair()
        with application, tunnel:
            application.sendall(b"x" * 1000)
            assert len(tunnel.recv(5000)) == 1000
            tunnel.sendall(b"y" * 1000)
            assert len(application.recv(5000)) == 1000
            assert bytes_by_tcp(application) == 0
            read, write = os.pipe()
            tunnel.sendall(b"z" * 10)
            wait_for_data(application)
            assert os.splice(application.fileno(), write, 100) == 10, "splice(2) sees it"
            assert bytes_by_tcp(tunnel) >= 1000
            os.close(read)
            os.close(write)


def wait_for_data(sock: socket.socket) -> None:
    sock.recv(1, socket.MSG_PEEK)


@hops
def test_a_slow_reader_stops_the_writer(joined: SocketMap, kind: str) -> None:
    with Hop(kind) as hop:
        for writer, reader in (hop.pair(), hop.pair()[::-1]):
            room = reader.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
            writer.setblocking(False)
            written = 0
            with suppress(BlockingIOError):
                while written < MOST_BYTES:
                    written += writer.send(stream(3, written, 10_000))
            assert written < 2 * room + 200_000 < MOST_BYTES, "memory per connection is bounded"
            begin, got = time.monotonic(), 0
            while got < written:
                data = reader.recv(65_536)
                assert data == stream(3, got, len(data))
                got += len(data)
            assert time.monotonic() - begin < 5, "what waited goes on when it is read"
            writer.close()
            assert reader.recv(1) == b""
            reader.close()
    assert joined.counts()["crowded"] == 2


@hops
def test_urgent_data_stays_in_its_place(joined: SocketMap, kind: str) -> None:
    """As the tunnel reads it everywhere (RFC 6093: SO_OOBINLINE)."""
    with Hop(kind) as hop:
        application, tunnel = hop.pair()
        with application, tunnel:
            tunnel.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            application.sendall(b"abc")
            application.send(b"!", socket.MSG_OOB)
            application.sendall(b"def")
            application.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: tunnel.recv(100), b"")) == b"abc!def"


@hops
def test_a_process_that_is_killed(joined: SocketMap, kind: str) -> None:
    with Hop(kind) as hop:
        for mine in (0, 1):
            ends = hop.pair()
            keep, give = ends[mine], ends[1 - mine]
            child = os.fork()
            if child == 0:
                keep.close()
                give.sendall(b"last words")
                signal.pause()
                os._exit(0)
            give.close()
            assert keep.recv(100) == b"last words"
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            assert keep.recv(100) == b""
            keep.close()
    assert joined.sockets() == 0


@hops
def test_what_was_open_before_stays_with_tcp(joined: SocketMap, kind: str) -> None:
    joined.dismiss(own_cookie())
    with Hop(kind) as hop:
        application, tunnel = hop.pair()
        joined.admit(own_cookie(), Directions.BOTH)
        with application, tunnel:
            application.sendall(b"x")
            assert tunnel.recv(5) == b"x"
            assert joined.sockets() == 0
        application, tunnel = hop.pair()
        joined.dismiss(own_cookie())
        with application, tunnel:
            application.sendall(b"y")
            assert tunnel.recv(5) == b"y"
            assert bytes_by_tcp(application) == 0, "and what was joined stays joined"
            later = hop.pair()
            with later[0], later[1]:
                assert joined.sockets() == 2
    assert joined.members() == {}


def test_only_an_application_and_its_tunnel_are_joined(joined: SocketMap) -> None:
    with Hop("inbound") as hop, hop.client() as client:
        client.setsockopt(socket.SOL_SOCKET, SO_MARK, 0)
        client.connect((LOOPBACK[socket.AF_INET], APP_PORT))
        server, _ = hop.listener.accept()
        with server:
            assert joined.sockets() == 0, "two applications"
    with Hop("outbound") as hop, hop.client() as client:
        client.setsockopt(socket.SOL_SOCKET, SO_MARK, PROXY_MARK)
        client.connect((LOOPBACK[socket.AF_INET], OUTBOUND_PORT))
        server, _ = hop.listener.accept()
        with server:
            client.sendall(b"x")
            assert server.recv(1) == b"x"
    assert joined.counts()["joined"] == 0, "two tunnels"


@hops
def test_applications_that_wait_in_the_kernel_stay_out(joined: SocketMap, kind: str) -> None:
    """A signal would end their recv(2) with EAGAIN."""
    with Hop(kind) as hop:
        blocking = hop.client() if hop.tunnel_listens else hop.listener
        blocking.setblocking(True)
        client = blocking if hop.tunnel_listens else hop.client()
        client.connect((LOOPBACK[socket.AF_INET], hop.port))
        server, _ = hop.listener.accept()
        with client, server:
            server.setblocking(True)
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            assert bytes_by_tcp(client) == 1
    assert joined.counts()["joined"] == 0
    assert joined.counts()["blocking"] == 1


@hops
def test_an_application_that_starts_to_wait_falls_back_to_tcp(joined: SocketMap, kind: str) -> None:
    with Hop(kind) as hop:
        application, tunnel = hop.pair()
        with application, tunnel:
            application.sendall(b"by the map ")
            application.setblocking(True)
            application.sendall(b"by TCP")
            assert tunnel.recv(11) == b"by the map "
            assert tunnel.recv(100) == b"by TCP"
            tunnel.sendall(b"12345")
            assert application.recv(5, socket.MSG_WAITALL) == b"12345"
            assert bytes_by_tcp(application) == 6


def test_it_is_found_again_and_replaced(joined: SocketMap, tmp_path: Path) -> None:
    again = socket_map.open_socket_map("/proc")
    assert again.members() == joined.members() == {own_cookie(): Directions.BOTH}
    again.close()
    socket_map.remove_socket_map()
    assert not Path(socket_map.FOLDER).exists()
    socket_map.remove_socket_map()
