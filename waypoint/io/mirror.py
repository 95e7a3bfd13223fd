"""Copies of requests for other services: sent beside the request, their responses are dropped.

The request never waits for its copies: a copy that falls behind is given up.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Final

import trio
from msgspec.structs import replace

from waypoint.core.decision import Upstream
from waypoint.core.grpc import http_status
from waypoint.core.http1 import BadMessageError
from waypoint.core.message import End, Request, RequestHead, Response
from waypoint.core.reset import Reset
from waypoint.io.attempt import Attempt
from waypoint.io.downstream import Body, ClientGoneError, Downstream
from waypoint.io.duplex import Duplex
from waypoint.io.fiber import Limit
from waypoint.io.service import Service

LONGEST_S: Final = 300.0
"""A copy of a request without a timeout ends after this long."""
BEHIND_BYTES: Final = 1 << 20
"""A copy that is further behind is given up."""


class ShadowBody:
    """What the client sends, a second time."""

    def __init__(self) -> None:
        self._events: deque[bytes | End] = deque()
        self._waiting = 0
        self._more = trio.Event()
        self._lost = False

    def put(self, event: bytes | End) -> None:
        """The request has got so far."""
        self._events.append(event)
        self._waiting += len(event) if isinstance(event, bytes) else 0
        if self._waiting > BEHIND_BYTES:
            self.lose()
        self._more.set()

    def lose(self) -> None:
        """There will be no more."""
        self._lost = True
        self._events.clear()
        self._more.set()

    def poll_body(self) -> bytes | End | None:
        """See ``BodySource``."""
        if self._lost:
            raise ClientGoneError
        if not self._events:
            return None
        event = self._events.popleft()
        self._waiting -= len(event) if isinstance(event, bytes) else 0
        return event

    async def wait_body(self) -> None:
        """See ``BodySource``."""
        if not self._events and not self._lost:
            self._more = trio.Event()
            await self._more.wait()


class Shadow:
    """A client that wants no answer: a ``Downstream``."""

    def __init__(self, head: RequestHead, source: ShadowBody) -> None:
        self.head = head
        self.body = Body(source, present=head.has_body)
        self.started = False
        self.closing = False

    def attend(self, limit: Limit) -> None:
        """Nobody waits who could go away."""

    def begin(self, response: Response) -> None:
        """Dropped."""

    def data(self, data: bytes) -> None:
        """Dropped."""

    def end(self, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        """Dropped."""

    async def flush(self) -> None:
        """Nothing to send."""

    def reset(self) -> None:
        """Nobody to tell."""

    def take_over(self) -> tuple[Duplex, bytes]:
        """Copies ask for no upgrade."""
        raise NotImplementedError


def start_mirrors(
    service: Service,
    client: Downstream,
    request: Request,
    upstreams: tuple[Upstream, ...],
    timeout_s: float | None,
) -> list[ShadowBody]:
    """Send copies of a request whose body was not read yet. The request tells the bodies that are
    answered when it ends before its body has."""
    bodies: list[ShadowBody] = []
    if not client.body.replayable:
        return bodies  # its beginning was read for somebody else, and is gone
    for upstream in upstreams:
        source = ShadowBody()
        shadow = Shadow(client.head, source)
        for event in client.body.seen() if client.head.has_body else ():
            source.put(event)
        client.body.taps.append(source.put)
        bodies.append(source)
        copy = replace(request, headers=request.headers.copy(), upgrade="")
        limit_s = timeout_s or LONGEST_S
        service.background(partial(_send, service, upstream, shadow, copy, limit_s))
    return bodies


async def _send(
    service: Service, upstream: Upstream, shadow: Shadow, request: Request, timeout_s: float
) -> None:
    cluster = service.cluster(upstream)
    host = cluster.pick(trio.current_time(), allowed=upstream.allowed)
    if host is None or cluster.full:
        return
    codec = upstream.codec(shadow.head.version)
    attempt = Attempt(service.upstreams, cluster, shadow, request, codec)

    def judge(response: Response) -> bool:
        cluster.answered(host, http_status(response), trio.current_time())
        return True

    cluster.begun(host)
    with trio.move_on_after(timeout_s):
        try:
            outcome = await attempt.run(host, judge)
        except (ClientGoneError, BadMessageError):
            return
        finally:
            cluster.over(host)
        if outcome.reset is not None and outcome.reset is not Reset.OVERFLOW:
            cluster.failed(host, trio.current_time())
