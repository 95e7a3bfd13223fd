"""An HTTP/2 connection on a stream of bytes: what its server and its client have in common.

Output leaves at the end of the relay's turn, all that the turn made together; what the stream does
not take waits for a task of its own, and meanwhile nobody may add more than the windows allow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import trio

from ambient.hbone.core.errors import ConnectionLostError, HboneStreamError, PeerError
from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.core.limits import Limits
from ambient.hbone.io.stream import HboneStream
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core.http2 import Http2, HttpStream
from waypoint.core.message import End, Response
from waypoint.io.downstream import ClientGoneError
from waypoint.io.duplex import STREAM_ERRORS, Duplex, Ending, Inlet, drop_now, relay_of
from waypoint.io.duplex import send as send_all
from waypoint.io.fiber import Signal, drive, now_s
from waypoint.io.plain_stream import PlainStream

log = get_logger("waypoint")


class Http2Link:
    """Base of both roles and the listener of its connection."""

    def __init__(self, stream: Duplex, limits: Limits, *, client: bool) -> None:
        self.stream = stream
        self.http2 = Http2(self, limits, Flow, client=client)
        self.lost = False
        """The connection is over; nothing can be sent or opened."""
        self.broken = False
        """It ended because the peer broke the rules of HTTP/2."""
        self._inlet = Inlet(stream)
        self._relay = relay_of(stream)
        self._marked = False
        self._blocked = trio.Event()
        self._reason = ""
        self.http2.start()

    # What the roles add

    def settled(self) -> None:
        """See ``LinkListener``."""

    def pong(self, payload: bytes) -> None:
        """See ``LinkListener``."""

    def going_away(self) -> None:
        """See ``LinkListener``."""

    def requested(self, stream: Flow) -> None:
        """See ``Http2Listener``."""

    def ended(self, stream: Flow) -> None:
        """See ``Http2Listener``."""

    # Bytes

    async def carry(self, first: bytes = b"") -> None:
        """Read and write until the connection ends; ``first`` was read already."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_what_waits)
            if self._relay is None:
                await self._read(first)
            else:
                await drive(self._relay, self._read(first))
            nursery.cancel_scope.cancel()
        self.lose(self._reason)

    async def _read(self, first: bytes) -> None:
        self._reason = await self._read_all(first)

    async def _read_all(self, first: bytes) -> str:
        """Until the connection ends; says why."""
        http2, inlet = self.http2, self._inlet
        data = first
        try:
            if not data:
                self.touch()
                data = await inlet.receive()
            while data:
                http2.receive(memoryview(data), now_s())
                self.touch()
                if self.lost:
                    break
                data = await inlet.receive()
        except PeerError as violation:
            self.broken = True
            self.flush()  # the GOAWAY
            return str(violation)
        except STREAM_ERRORS as error:
            return f"the connection broke: {error}"
        except Exception:  # one connection must not end the others
            log.exception(Event.CONN_CRASHED)
            return "an error of our own"
        return "the peer closed the connection"

    def touch(self) -> None:
        """There may be output: send it at the end of the relay's turn."""
        if self._marked or not self.http2.out:
            return
        if self._relay is None:
            self.flush()
        else:
            self._marked = True
            self._relay.flush_later(self)

    def flush(self) -> None:
        """Send what waits; where the stream takes no more, ``_write_what_waits`` goes on."""
        self._marked = False
        out = self.http2.out
        if not out or self.lost or self._blocked.is_set():
            return
        sent = 0
        if isinstance(self.stream, HboneStream | PlainStream):
            try:
                sent = self.stream.send_now(out)
            except STREAM_ERRORS:
                self.lost = True  # reading tells why
                return
        if sent == len(out):
            out.clear()
            self._room()
        else:
            del out[:sent]
            self._blocked.set()

    def _room(self) -> None:
        if self.http2.congested:
            self.http2.congested = False
            self.http2.unblock()

    async def _write_what_waits(self) -> None:
        while True:
            await self._blocked.wait()
            out = self.http2.out
            while out:
                batch = bytes(out)
                out.clear()
                try:
                    await send_all(self.stream, batch)
                except STREAM_ERRORS:
                    self.lost = True
                    return
                self._room()
            self._blocked = trio.Event()

    def lose(self, reason: str) -> None:
        """End the connection; its streams fail."""
        self.lost = True
        self.http2.lose(ConnectionLostError(reason, ErrorCode.CONNECT_ERROR))
        drop_now(self.stream)

    async def finish(self) -> None:
        """End an idle connection in order."""
        with contextlib.suppress(*STREAM_ERRORS), trio.move_on_after(1.0):
            await self.stream.aclose()
        self.lost = True


class Flow(HttpStream):
    """A stream as a fiber or task sees it: content goes out within the windows, events come in.

    It is a ``BodySource``.
    """

    _pending: list[bytes] | None = None
    _end: tuple[tuple[str, str], ...] | None = None
    _signal: Signal | None = None
    on_failure: Callable[[], None] | None = None
    """Called when the stream is over before its time."""

    def wake(self) -> None:
        """See ``HttpStream``."""
        if self._signal is not None:
            self._signal.wake()

    def failed(self, error: HboneStreamError) -> None:
        """See ``DataSink``."""
        self.error = error
        if self.on_failure is not None:
            self.on_failure()
        self.wake()

    def wait(self) -> Awaitable[None]:
        """Wait for an event, an error, or room."""
        signal = self._signal
        if signal is None:
            signal = self._signal = Signal()
        return signal.wait()

    # Out

    def write(self, data: bytes) -> None:
        """Content, for the next ``flush``."""
        if self._pending is None:
            self._pending = [data]
        else:
            self._pending.append(data)

    def finish(self, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """Our direction is complete behind what was written."""
        self._end = trailers

    async def flush(self) -> bool:
        """Send everything; waits while the peer is slow. False where the stream is over."""
        pending = self._pending
        while pending and not self.local_ended:
            data = pending[0]
            sent = self.send(data, last=self._end == () and len(pending) == 1)
            if sent == len(data):
                del pending[0]
            elif sent:
                pending[0] = data[sent:]
            else:
                await self._room()
        if self._end is not None and not (pending or self.local_ended):
            self.tunnel.end(self, self._end)
            self._end = None
        self.tunnel.listener.touch()
        return self.error is None and not pending

    async def _room(self) -> None:
        """Wait until more may be sent, if nothing may be."""
        self.tunnel.listener.touch()
        if self.budget() <= 0 and not self.local_ended:
            self.tunnel.block(self)
            await self.wait()

    def abandon(self, code: int) -> None:
        """End both directions at once."""
        if self.events or not (self.local_ended and self.remote_ended):
            self.drop()
            self.tunnel.reset(self, code)
            self.tunnel.listener.touch()

    # In

    def poll(self) -> Response | bytes | End | None:
        """The next event, if it is there; gives the peer room for more."""
        event = self.take()
        if isinstance(event, bytes):
            self.tunnel.listener.touch()
        return event

    def poll_body(self) -> bytes | End | None:
        """See ``BodySource``."""
        event = self.poll() if self.events else None
        if event is None and self.error is not None:
            raise ClientGoneError
        assert not isinstance(event, Response)
        return event

    async def wait_body(self) -> None:
        """See ``BodySource``."""
        await self.wait()


class FlowDuplex(Ending):
    """What follows an extended CONNECT, both ways, as a ``Duplex``."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def send_all(self, data: bytes) -> None:
        """See ``Duplex``."""
        if data:
            self._flow.write(data)
        await self._flush()

    async def send_eof(self) -> None:
        """See ``Duplex``."""
        self._flow.finish()
        await self._flush()

    async def _flush(self) -> None:
        if not await self._flow.flush():
            raise trio.BrokenResourceError("the stream was reset")

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See ``Duplex``. As much as one frame brought."""
        flow = self._flow
        while True:
            event = flow.poll()
            if isinstance(event, End):
                return b""
            if isinstance(event, bytes) and event:
                return event
            if event is None:
                if flow.error is not None or flow.closed:
                    raise trio.BrokenResourceError("the stream was reset")
                await flow.wait()

    async def aclose(self) -> None:
        """See ``Duplex``."""
        await self.send_eof()

    def end_now(self, code: ErrorCode) -> None:
        """See ``Ending``."""
        self._flow.abandon(code)
