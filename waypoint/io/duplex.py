"""Byte streams both ways, whatever is below them: a tunnel's stream or a plain socket."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import trio

from ambient.hbone.core.counters import Counters
from ambient.hbone.core.errors import HboneError
from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.stream import HboneStream
from waypoint.io.fiber import Signal, in_task
from waypoint.io.plain_stream import PlainStream
from waypoint.io.tls_stream import TlsStream

READ_BYTES: Final = 64 * 1024
"""Read at most this much at once; bounds what a message waits in memory."""
STREAM_ERRORS: Final = (trio.BrokenResourceError, trio.ClosedResourceError, HboneError, OSError)
"""What a stream raises when its other side is gone."""


class Duplex(Protocol):
    """The part of ``trio.abc.HalfCloseableStream`` that we use."""

    async def send_all(self, data: bytes) -> None:
        """Send; waits while the other side is slow."""

    async def send_eof(self) -> None:
        """Say that nothing more follows; reading goes on."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Some bytes; empty at the end."""
        ...

    async def aclose(self) -> None:
        """Close both directions."""


class Ending:
    """A ``Duplex`` that knows how to end at once."""

    def end_now(self, code: ErrorCode) -> None:
        """Both directions."""
        raise NotImplementedError


def abort(stream: Duplex) -> None:
    """End a client's stream at once, so that it sees that something is missing."""
    _end(stream, ErrorCode.INTERNAL_ERROR)  # CANCEL would look like a proper end


def drop_now(stream: Duplex) -> None:
    """Give up a stream to an endpoint; the application sees that its client has gone."""
    _end(stream, ErrorCode.CANCEL)


def _end(stream: Duplex, code: ErrorCode) -> None:
    with contextlib.suppress(*STREAM_ERRORS):
        if isinstance(stream, HboneStream):
            stream.reset(code)
        elif isinstance(stream, PlainStream):
            stream.close()
        elif isinstance(stream, TlsStream):
            _end(stream.below, code)
        elif isinstance(stream, Ending):
            stream.end_now(code)
        else:
            raise TypeError(f"cannot end a {type(stream).__name__}")


def quiet(stream: Duplex) -> bool:
    """Is the stream open, and has the other side said nothing that was not read?

    With TLS, bytes that wait may be a session ticket: it counts as quiet.
    """
    # isinstance() would ask the abstract classes above them, in Python
    if type(stream) is PlainStream or type(stream) is HboneStream:
        return stream.quiet
    return True


async def send(stream: Duplex, data: bytes | bytearray) -> None:
    """Send; without a task switch where everything leaves at once. Raises STREAM_ERRORS."""
    if type(stream) is PlainStream or type(stream) is HboneStream:
        sent = stream.send_now(data)
        if sent == len(data):
            return
        async with in_task():
            await stream.send_all(bytes(memoryview(data)[sent:]))
    else:
        async with in_task():
            await stream.send_all(bytes(data))


def relay_of(stream: Duplex) -> Relay | None:
    """Who moves a stream's bytes, where that is a relay."""
    return stream.relay if isinstance(stream, HboneStream | PlainStream) else None


class Inlet:
    """What arrives on a stream, for one reader at a time, in a fiber or in a task."""

    __slots__ = ("_signal", "_stream", "_take")

    def __init__(self, stream: Duplex) -> None:
        self._stream = stream
        self._signal = Signal()
        self._take: Callable[[int], bytes | None] | None = None
        if isinstance(stream, HboneStream | PlainStream):
            self._take = stream.take_now
            stream.on_arrival = self._signal.wake

    async def receive(self) -> bytes:
        """Some bytes; empty at the end. Raises STREAM_ERRORS."""
        take = self._take
        if take is None:
            async with in_task():
                return bytes(await self._stream.receive_some(READ_BYTES))
        while (data := take(READ_BYTES)) is None:
            await self._signal.wait()
        return data


class Copied(NamedTuple):
    """Bytes that went from left to right and back, and what broke a stream, if something did."""

    right: int
    left: int
    broken: Exception | None


async def relay(
    left: Duplex,
    right: Duplex,
    first: tuple[bytes, bytes] = (b"", b""),
    counters: Counters | None = None,
) -> Copied:
    """Copy both ways until both directions ended; an end is passed on as an end.

    ``first`` are bytes that were read already, from left and from right. ``counters`` count from
    left (``received``) and from right while the bytes move. Where a stream broke, both should be
    aborted.
    """
    counted = counters if counters is not None else Counters()
    broken: list[Exception] = []

    async def copy(source: Duplex, sink: Duplex, start: bytes, counter: str) -> None:
        try:
            data: bytes | bytearray = start or await source.receive_some(READ_BYTES)
            while data:
                await sink.send_all(bytes(data))
                setattr(counted, counter, getattr(counted, counter) + len(data))
                data = await source.receive_some(READ_BYTES)
            await sink.send_eof()
        except STREAM_ERRORS as error:
            broken.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, left, right, first[0], "received")
        nursery.start_soon(copy, right, left, first[1], "sent")
    return Copied(counted.received, counted.sent, broken[0] if broken else None)
