"""An HTTP/2 connection of a client: its requests side by side, a fiber for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import trio

from ambient.hbone.core.frames import ErrorCode
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.stream import HboneStream
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core.http2 import server_limits
from waypoint.core.message import Response
from waypoint.core.websocket import for_http2
from waypoint.io.downstream import Body, ClientGoneError
from waypoint.io.duplex import Duplex
from waypoint.io.fiber import Fiber, Limit
from waypoint.io.http2_link import Flow, FlowDuplex, Http2Link
from waypoint.io.service import Service

log = get_logger("waypoint")

LEAVE_S: Final = 0.5
"""Between the first GOAWAY and the last: new requests may be on their way (RFC 9113, 6.8)."""


class Http2Exchange:
    """One request and its response: a ``Downstream``."""

    def __init__(self, flow: Flow) -> None:
        assert flow.head is not None
        self.head = flow.head
        self._flow = flow
        self.body = Body(flow, present=flow.head.has_body)
        self.started = False
        self.closing = False
        self._silent = flow.head.method == "HEAD"
        self._complete = False

    def attend(self, limit: Limit) -> None:
        """See ``Downstream``."""
        self._flow.on_failure = limit.cancel
        if self._flow.error is not None:
            limit.cancel()

    def begin(self, response: Response) -> None:
        """See ``Downstream``."""
        flow = self._flow
        if response.status == 101:
            response = for_http2(response)
        if response.status < 200 and response.informational:
            flow.tunnel.respond(flow, response)
            return
        self._complete = response.end
        if self._silent and not response.end:
            response.end = True  # nothing follows a HEAD
        flow.tunnel.respond(flow, response)
        self.started = True

    def data(self, data: bytes) -> None:
        """See ``Downstream``."""
        if data and not self._silent:
            self._flow.write(data)

    def end(self, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """See ``Downstream``."""
        self._complete = True
        if not self._silent:
            self._flow.finish(trailers)

    async def flush(self) -> None:
        """See ``Downstream``."""
        if not await self._flow.flush():
            raise ClientGoneError

    def reset(self) -> None:
        """See ``Downstream``."""
        self._flow.abandon(ErrorCode.INTERNAL_ERROR)

    def take_over(self) -> tuple[Duplex, bytes]:
        """See ``Downstream``."""
        self._complete = True
        return FlowDuplex(self._flow), b""

    def settle(self) -> None:
        """After the exchange: nothing of it stays."""
        self._flow.on_failure = None  # no cycle for the collector
        # A response that did not need all of the request is complete: NO_ERROR (RFC 9113, 8.1).
        self._flow.abandon(ErrorCode.NO_ERROR if self._complete else ErrorCode.INTERNAL_ERROR)


class _Requests:
    """The fibers of one connection, and the tasks that some of them need."""

    def __init__(self, relay: Relay, tasks: trio.Nursery) -> None:
        self._relay = relay
        self._tasks = tasks
        self._fibers: set[Fiber] = set()
        self._none_left = trio.Event()

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        """Run it from the end of this turn on."""
        fiber = Fiber(self._relay, main, self)
        self._fibers.add(fiber)
        fiber.wake()

    def need_task(self, fiber: Fiber) -> None:
        """See ``Owner``."""
        self._tasks.start_soon(fiber.carry)

    def ended(self, fiber: Fiber, error: BaseException | None) -> None:
        """See ``Owner``."""
        self._fibers.discard(fiber)
        if not self._fibers:
            self._none_left.set()

    async def wait(self) -> None:
        """Until all have ended."""
        while self._fibers:
            self._none_left = trio.Event()
            await self._none_left.wait()

    def close(self) -> None:
        """Give up those that no task runs."""
        for fiber in list(self._fibers):
            fiber.close()


class Http2Server(Http2Link):
    """Serves one connection until the client ends it, breaks it, or we drain."""

    def __init__(
        self,
        service: Service,
        stream: HboneStream,
        serve: Callable[[Http2Exchange], Awaitable[None]],
    ) -> None:
        super().__init__(stream, server_limits(), client=False)
        self._service = service
        self._serve = serve
        self._tunnel = stream.relay
        self._requests: _Requests | None = None
        self._idle = trio.Event()
        self._leaving = False

    async def run(self, first: bytes = b"") -> None:
        """``first`` is what was read from the stream already."""
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as tasks:
                requests = self._requests = _Requests(self._tunnel, tasks)
                nursery.start_soon(self._leave_when_draining)
                try:
                    await self.carry(first)
                    await requests.wait()
                finally:
                    requests.close()
            nursery.cancel_scope.cancel()

    def requested(self, stream: Flow) -> None:
        """See ``Http2Listener``."""
        assert self._requests is not None
        self._requests.start(self._exchange(Http2Exchange(stream)))

    async def _exchange(self, exchange: Http2Exchange) -> None:
        try:
            await self._serve(exchange)
        except ClientGoneError:
            pass
        except Exception:  # one request must not end the others
            log.exception(Event.REQUEST_CRASHED, path=exchange.head.target)
        finally:
            exchange.settle()

    def ended(self, stream: Flow) -> None:
        """See ``Http2Listener``."""
        if self._leaving and not self.http2.streams:
            self._idle.set()

    async def _leave_when_draining(self) -> None:
        """Ask for no more requests, answer those under way, then end."""
        await self._service.drained.wait()
        self.http2.announce_leave()
        self.flush()
        await trio.sleep(LEAVE_S)
        self.http2.leave()
        self.flush()
        self._leaving = True
        if self.http2.streams:
            await self._idle.wait()
        await self.finish()
