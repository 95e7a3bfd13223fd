"""Questions that are somebody else's to answer, asked again from inside the pod's namespace.

Every attempt has a socket, a random port and a random number of its own, so whoever forges an
answer has to guess both, and the kernel checks the server's address. An earlier attempt goes on
listening while a later one is made: a slow resolver is no dead one.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from ambient.api.address import HostPort
from ambient.api.errors import MeshError
from ambient.net.io.datagrams import connect_datagrams_in
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import connect_in
from ztunnel.core.dns_message import MAX_BYTES, UNWILLING, Query, read_reply
from ztunnel.io.dns_stream import MessageStream

TOTAL_S: Final = 5.0  # glibc's and hickory's time-out: nobody waits for longer
ATTEMPT_S: Final = 1.5
"""A server that is silent for so long is joined by the next one, or asked once more."""
UDP_ROUNDS: Final = 2  # as glibc's and hickory's "attempts"
_WHOLE_ANSWER_S: Final = 2.0
"""For getting over TCP what UDP had to cut; then the cut answer has to do."""


class NoAnswerError(MeshError):
    """None of the servers answered."""


class _Outcome:
    """What the attempts have come to."""

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.unwilling: bytes | None = None
        """An answer like SERVFAIL: better than none, if no other server knows more."""
        self.settled: set[HostPort] = set()
        self.errors: dict[HostPort, str] = {}


_Attempt = Callable[[Query, HostPort], Awaitable[bytes]]


class Upstream:
    """Asks for one pod."""

    def __init__(self, netns: Netns, mark: int | None) -> None:
        self._netns = netns
        self._mark = mark

    async def ask_over_udp(self, query: Query, servers: Sequence[HostPort]) -> bytes:
        """The first server's answer, under any number; whole, where that can be had over TCP.

        Raises NoAnswerError.
        """
        return await self._ask(query, [*servers] * UDP_ROUNDS, self._over_udp)

    async def ask_over_tcp(self, query: Query, servers: Sequence[HostPort]) -> bytes:
        """As ``ask_over_udp``, for clients that came over TCP."""
        return await self._ask(query, servers, self._over_tcp)

    async def _ask(self, query: Query, attempts: Sequence[HostPort], how: _Attempt) -> bytes:
        outcome = _Outcome()
        with trio.move_on_after(TOTAL_S):
            async with trio.open_nursery() as nursery:

                async def attempt(server: HostPort, over: trio.Event) -> None:
                    await _try(how, query, server, outcome)
                    over.set()
                    if outcome.answer is not None:
                        nursery.cancel_scope.cancel()

                for server in attempts:
                    if server in outcome.settled:
                        continue
                    over = trio.Event()
                    nursery.start_soon(attempt, server, over)
                    with trio.move_on_after(ATTEMPT_S):
                        await over.wait()
        answer = outcome.answer or outcome.unwilling
        if answer is None:
            asked = ", ".join(str(server) for server in dict.fromkeys(attempts)) or "nobody to ask"
            reasons = "; ".join(outcome.errors.values()) or "silence"
            raise NoAnswerError(f"no answer from {asked}: {reasons}")
        return answer

    async def _over_udp(self, query: Query, server: HostPort) -> bytes:
        number = secrets.randbelow(1 << 16)
        with connect_datagrams_in(self._netns, server, self._mark) as sock:
            sock.send(query.with_id(number))
            while True:
                await trio.lowlevel.wait_readable(sock)
                try:
                    data = sock.recv(MAX_BYTES)
                except BlockingIOError:
                    continue
                reply = read_reply(query, number, data)
                if reply is not None:
                    break  # anything else is forged; the true answer may still come
        if not reply.truncated:
            return data
        with trio.move_on_after(_WHOLE_ANSWER_S):
            try:
                return await self._over_tcp(query, server)
            except (MeshError, OSError, trio.BrokenResourceError):
                pass  # the client is told that there is more, and may try itself
        return data

    async def _over_tcp(self, query: Query, server: HostPort) -> bytes:
        number = secrets.randbelow(1 << 16)
        sock = await connect_in(self._netns, server, mark=self._mark, timeout_s=TOTAL_S)
        with sock:
            stream = MessageStream(sock)
            await stream.send(query.with_id(number))
            while (data := await stream.receive()) is not None:
                if read_reply(query, number, data) is not None:
                    return data
        raise NoAnswerError(f"{server} closed the connection without an answer")


async def _try(how: _Attempt, query: Query, server: HostPort, outcome: _Outcome) -> None:
    try:
        data = await how(query, server)
    except (MeshError, OSError, trio.BrokenResourceError) as error:
        outcome.settled.add(server)
        outcome.errors[server] = str(error)
        return
    outcome.settled.add(server)
    if data[3] & 0xF in UNWILLING:
        outcome.unwilling = data
    else:
        outcome.answer = data
