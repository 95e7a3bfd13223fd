"""Resolves the names of endpoints with the node's own DNS servers, from the tunnel's namespace."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from ambient.api.address import HostPort, IPAddress
from ztunnel.core.resolution import (
    A_RECORD,
    AAAA_RECORD,
    UNKNOWN_S,
    Answer,
    Cache,
    nameservers,
    question,
    read_answer,
)

RESOLV_CONF: Final = "/etc/resolv.conf"
TIMEOUT_S: Final = 2.0
"""For one answer of one server; the C library waits 5 s, by when most clients have given up."""
ROUNDS: Final = 2
"""How often all servers are asked."""
_DATAGRAM_BYTES: Final = 65535


class Resolver:
    """One per process. Names are absolute: search domains are not tried."""

    def __init__(self, resolv_conf: str = RESOLV_CONF, timeout_s: float = TIMEOUT_S) -> None:
        self._resolv_conf = Path(resolv_conf)
        self._timeout_s = timeout_s
        self._cache = Cache()
        self._asking: dict[str, trio.Event] = {}

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        """All addresses of both families; empty where there are none or nobody answers.

        Callers that ask for the same name at the same time share one question.
        """
        name = name.rstrip(".").lower()
        while True:
            known = self._cache.fresh(name, trio.current_time())
            if known is not None:
                await trio.lowlevel.checkpoint()
                return known
            waiting = self._asking.get(name)
            if waiting is None:
                return await self._look_up(name)
            await waiting.wait()

    async def _look_up(self, name: str) -> tuple[IPAddress, ...]:
        done = self._asking[name] = trio.Event()
        answers: list[Answer | None] = []
        try:
            servers = self.servers()

            async def ask(kind: int) -> None:
                answers.append(await self._ask_all(servers, name, kind))

            async with trio.open_nursery() as nursery:
                for kind in (A_RECORD, AAAA_RECORD):
                    nursery.start_soon(ask, kind)
            good = [answer for answer in answers if answer is not None]
            if not good:
                # For a while, so that a dead server does not hold up every connection.
                good = [Answer(self._cache.stale(name), UNKNOWN_S)]
            return self._cache.put(name, good, trio.current_time())
        finally:
            del self._asking[name]
            done.set()

    def servers(self) -> list[HostPort]:
        """Read anew each time: the file changes when the node moves to another network."""
        try:
            return nameservers(self._resolv_conf.read_text())
        except OSError:
            return []

    async def _ask_all(self, servers: Sequence[HostPort], name: str, kind: int) -> Answer | None:
        for server in [*servers] * ROUNDS:
            with trio.move_on_after(self._timeout_s):
                try:
                    return await _ask(server, name, kind)
                except (OSError, ValueError, trio.BrokenResourceError):
                    continue  # the next server may know
        return None


async def _ask(server: HostPort, name: str, kind: int) -> Answer:
    """One question to one server. Raises OSError, ValueError."""
    number = secrets.randbelow(1 << 16)
    query = question(name, kind, number)
    read = partial(read_answer, name=name, kind=kind, number=number)
    with _socket(server, socket.SOCK_DGRAM) as sock:
        await sock.connect(server)
        await sock.send(query)
        while (answer := read(await sock.recv(_DATAGRAM_BYTES))) is None:
            pass  # somebody else's answer
    if answer.truncated:
        answer = read(await _ask_over_tcp(server, query))
    if answer is None:
        raise ValueError(f"{server} answers something else")
    return answer


async def _ask_over_tcp(server: HostPort, query: bytes) -> bytes:
    with _socket(server, socket.SOCK_STREAM) as sock:
        await sock.connect(server)
        stream = trio.SocketStream(sock)
        await stream.send_all(len(query).to_bytes(2, "big") + query)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            more = await stream.receive_some()
            if not more:
                raise ValueError("the answer is cut off")
            data += more
        return data[2:]


def _socket(server: HostPort, kind: socket.SocketKind) -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    return trio.socket.socket(family, kind)
