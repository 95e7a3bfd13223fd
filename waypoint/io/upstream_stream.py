"""One request on its way to an endpoint, whatever HTTP version carries it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from waypoint.core.message import End, Request, Response
from waypoint.core.reset import Reset
from waypoint.io.duplex import Duplex

ResponseEvent = Response | bytes | End


class UpstreamResetError(Exception):
    """The stream to the endpoint ended early, or never came about; ``cause`` says more."""

    def __init__(self, reason: Reset, cause: str = "") -> None:
        super().__init__(f"{reason.words}: {cause}" if cause else reason.words)
        self.reason = reason
        self.cause = cause


class UpstreamStream(Protocol):
    """One exchange with an endpoint; ends with ``release`` or ``reset``.

    ``begin``, ``data`` and ``end`` put the request together; ``flush`` sends what they made and
    waits while the endpoint is slow. At most one task sends and one receives at a time.
    """

    @property
    def reused(self) -> bool:
        """Did the connection carry exchanges before?"""
        ...

    @property
    def answered(self) -> bool:
        """Has anything of the response arrived?"""
        ...

    async def takes_upgrades(self) -> bool:
        """Can the endpoint be asked for another protocol on this connection?"""
        ...

    def begin(self, request: Request) -> None:
        """The head; without a body, the request is complete. Raises BadMessageError."""

    def data(self, data: bytes) -> None:
        """A piece of the body."""

    def end(self, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """The body is complete."""

    async def flush(self) -> None:
        """Send. Raises UpstreamResetError."""

    async def receive(self) -> Sequence[ResponseEvent]:
        """What comes next, at least one event: informational heads, the final head, pieces of
        the body, the end. Raises UpstreamResetError."""
        ...

    def release(self) -> None:
        """The exchange is over; its connection may carry another one if it is fit to."""

    def reset(self) -> None:
        """Give up; the endpoint sees that its client has gone."""

    def take_over(self) -> tuple[Duplex, bytes]:
        """After a 101: the endpoint's stream, and what was read behind the head. Whoever takes
        it over ends it, too, and still calls ``reset`` at the end."""
        ...
