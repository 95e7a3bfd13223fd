"""One request of a client and the way back for its response, whatever HTTP version carries them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from waypoint.core.message import End, RequestHead, Response
from waypoint.io.duplex import Duplex
from waypoint.io.fiber import Limit

REPLAY_BYTES: Final = 64 * 1024
"""A request's body up to this size can be sent again on another connection."""


class ClientGoneError(Exception):
    """The client closed or reset its connection or stream in the middle of an exchange."""


class BodySource(Protocol):
    """Where a connection gets the content of a request from."""

    def poll_body(self) -> bytes | End | None:
        """The next piece if it is there. Raises ClientGoneError and BadMessageError."""

    async def wait_body(self) -> None:
        """Wait until there may be more. Raises ClientGoneError."""


class Body:
    """The content of one request; kept for another attempt as long as it is short.

    ``complete``: the end was read. ``received`` counts bytes. ``when_complete`` is called then.
    """

    def __init__(self, source: BodySource, *, present: bool) -> None:
        self._source = source
        self._seen: list[bytes | End] | None = [] if present else [End()]
        self._size = 0
        self.complete = not present
        self.received = 0
        self.watch: Callable[[bytes], None] | None = None
        """Sees the content."""
        self.when_complete: Callable[[], None] | None = None
        self.replay_bytes = REPLAY_BYTES
        self.taps: list[Callable[[bytes | End], None]] = []
        """Are told every piece when it is read."""

    @property
    def replayable(self) -> bool:
        """Can everything that was read be sent again?"""
        return self._seen is not None

    def keep(self, size: int) -> None:
        """Somebody looks at the first ``size`` bytes, which are sent on nevertheless."""
        self.replay_bytes = max(self.replay_bytes, size + REPLAY_BYTES)

    def seen(self) -> list[bytes | End]:
        """What was read before, to start another attempt with (only if ``replayable``)."""
        assert self._seen is not None
        return list(self._seen)

    def poll(self) -> bytes | End | None:
        """The next piece if it is there. Raises ClientGoneError and BadMessageError."""
        event = self._source.poll_body()
        if event is not None:
            self._take(event)
        return event

    async def next(self) -> bytes | End:
        """The next piece. Raises ClientGoneError and BadMessageError."""
        while (event := self.poll()) is None:
            await self._source.wait_body()
        return event

    def _take(self, event: bytes | End) -> None:
        for tap in self.taps:
            tap(event)
        if not isinstance(event, End):
            self.received += len(event)
            if self.watch is not None:
                self.watch(event)
            self._size += len(event)
        if self._seen is not None:
            self._seen.append(event)
            if self._size > self.replay_bytes:
                self._seen = None
        if isinstance(event, End):
            self.complete = True
            if self.when_complete is not None:
                self.when_complete()


class Downstream(Protocol):
    """An exchange as the client's connection offers it.

    ``begin``, ``data`` and ``end`` put a response together and cannot fail; ``flush`` sends what
    they made and waits while the client is slow. After ``begin`` with ``response.end`` neither
    ``data`` nor ``end`` follow. A final ``begin`` happens once.
    """

    head: RequestHead
    body: Body
    started: bool
    """Has the client been given the head of a response?"""
    closing: bool
    """Set it before ``begin`` where the connection must not carry another request."""

    def attend(self, limit: Limit) -> None:
        """Cancel ``limit`` when the client goes away before its response is complete."""

    def begin(self, response: Response) -> None:
        """The head of a response, or an informational one in front of it."""

    def data(self, data: bytes) -> None:
        """A piece of the response's body."""

    def end(self, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """The response is complete."""

    async def flush(self) -> None:
        """Send. Raises ClientGoneError."""

    def reset(self) -> None:
        """Cut the response short, so that the client sees that something is missing."""

    def take_over(self) -> tuple[Duplex, bytes]:
        """After a 101: the client's stream, and what was read ahead of it."""
        ...
