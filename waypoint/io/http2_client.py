"""HTTP/2 to an endpoint: one connection for many exchanges."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ambient.hbone.core.errors import ConnectionLostError, HboneStreamError
from ambient.hbone.core.frames import ErrorCode
from waypoint.core.http2 import BrokenRulesError, client_limits
from waypoint.core.message import Request, Response
from waypoint.core.reset import Reset
from waypoint.core.websocket import from_http2
from waypoint.io.duplex import Duplex
from waypoint.io.fiber import in_task, now_s
from waypoint.io.http2_link import Flow, FlowDuplex, Http2Link
from waypoint.io.upstream_stream import ResponseEvent, UpstreamResetError


class Http2Client(Http2Link):
    """A connection to an endpoint; ``carry`` has to run."""

    def __init__(self, stream: Duplex) -> None:
        super().__init__(stream, client_limits(), client=True)
        self.exchanges = 0
        """Streams that were ever opened."""
        self.reserved = 0
        """Streams that are about to be opened."""
        self.opened_s = self.idle_since_s = now_s()
        self._known = trio.Event()

    def settled(self) -> None:
        """See ``LinkListener``."""
        self._known.set()

    def lose(self, reason: str) -> None:
        """See ``Http2Link``."""
        super().lose(reason)
        self._known.set()

    async def takes_upgrades(self) -> bool:
        """Does the endpoint take extended CONNECT? Its SETTINGS say."""
        if not self._known.is_set():
            async with in_task():
                await self._known.wait()
        return self.http2.peer_connect_protocol and not self.lost

    @property
    def streams(self) -> int:
        """Exchanges that are under way or about to be."""
        return len(self.http2.streams) + self.reserved

    @property
    def room(self) -> int:
        """How many more exchanges may begin now."""
        return 0 if self.lost else self.http2.room - self.reserved

    @property
    def busy(self) -> bool:
        """Is an exchange under way or about to be?"""
        return bool(self.http2.streams) or self.reserved > 0

    def ended(self, stream: Flow) -> None:
        """See ``Http2Listener``."""
        if not self.http2.streams:
            self.idle_since_s = now_s()
            self._end_if_left()

    def going_away(self) -> None:
        """See ``LinkListener``."""
        self._end_if_left()

    def _end_if_left(self) -> None:
        if self.http2.refusing and not self.busy and not self.lost:
            self.lose("the endpoint left")


class Http2Stream:
    """One exchange on a shared connection: an ``UpstreamStream``."""

    def __init__(self, link: Http2Client, over: Callable[[], None]) -> None:
        """``over`` is told once at the end."""
        self.reused = link.exchanges > 0
        self._link = link
        self._reserved = True
        self._over = over
        self._flow: Flow | None = None
        self._ended = False
        self._request: Request | None = None
        link.reserved += 1
        link.exchanges += 1

    @property
    def answered(self) -> bool:
        """See ``UpstreamStream``."""
        return self._flow is not None and self._flow.answered

    @property
    def _open(self) -> Flow:
        assert self._flow is not None, "begin comes first"
        return self._flow

    def begin(self, request: Request) -> None:
        """See ``UpstreamStream``. Raises UpstreamResetError where the connection has just gone."""
        link = self._link
        self._reserved = False
        link.reserved -= 1
        if link.lost or link.http2.room < 1:
            raise UpstreamResetError(Reset.REFUSED_STREAM, "the connection is leaving")
        self._request = request
        self._flow = link.http2.request(request)

    async def takes_upgrades(self) -> bool:
        """See ``UpstreamStream``."""
        return await self._link.takes_upgrades()

    def data(self, data: bytes) -> None:
        """See ``UpstreamStream``."""
        if data:
            self._open.write(data)

    def end(self, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """See ``UpstreamStream``."""
        self._open.finish(trailers)

    async def flush(self) -> None:
        """See ``UpstreamStream``."""
        if not await self._open.flush():
            raise self._error()

    async def receive(self) -> list[ResponseEvent]:
        """See ``UpstreamStream``."""
        flow = self._open
        while not flow.events:
            if flow.error is not None or (flow.local_ended and flow.remote_ended):
                raise self._error()
            await flow.wait()
        if flow.upgrade:
            return self._until_upgraded()
        events: list[ResponseEvent] = flow.take_all()
        self._link.touch()
        return events

    def _error(self) -> UpstreamResetError:
        error = self._open.error
        if error is None:
            return UpstreamResetError(Reset.REMOTE_RESET)
        if self._link.broken:
            return UpstreamResetError(Reset.PROTOCOL_ERROR)
        return UpstreamResetError(_reset(error), _cause(error))

    def release(self) -> None:
        """See ``UpstreamStream``."""
        self.reset()  # the end of a stream that has ended

    def reset(self) -> None:
        """See ``UpstreamStream``."""
        if not self._ended:
            self._ended = True
            if self._reserved:
                self._reserved = False
                self._link.reserved -= 1
            if self._flow is not None:
                self._flow.abandon(ErrorCode.CANCEL)
            self._over()

    def take_over(self) -> tuple[Duplex, bytes]:
        """See ``UpstreamStream``."""
        return FlowDuplex(self._open), b""

    def _until_upgraded(self) -> list[ResponseEvent]:
        """The events that are there, up to the response that another protocol follows."""
        events: list[ResponseEvent] = []
        while (event := self._open.poll()) is not None:
            if isinstance(event, Response) and self._upgraded(event):
                assert self._request is not None
                events.append(from_http2(event, self._request))
                break
            events.append(event)
        return events

    def _upgraded(self, response: Response) -> bool:
        """Is the stream another protocol's from here on?"""
        return bool(self._open.upgrade) and 200 <= response.status < 300


def _reset(error: HboneStreamError) -> Reset:
    if isinstance(error, BrokenRulesError):
        return Reset.PROTOCOL_ERROR
    if error.retryable:
        return Reset.REFUSED_STREAM
    if isinstance(error, ConnectionLostError):
        return Reset.CONNECTION_TERMINATION
    return Reset.REMOTE_RESET


def _cause(error: HboneStreamError) -> str:
    return "" if isinstance(error, ConnectionLostError) else str(error)
