"""What waits for one xDS stream's thread: requests in order, changes merged into one."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final, NamedTuple

from ambient.xds.core.delta_server import Request
from istiod_lite.core.snapshot import Delta

MAX_REQUESTS: Final = 32
"""A client that sends faster than it is answered waits in HTTP/2's window."""


class Closed(Exception):  # noqa: N818 - an end, not an error
    """The stream is over."""


class Push(NamedTuple):
    """Changes to tell: since when they are true, since when they wait here; monotonic."""

    delta: Delta
    since: float
    queued: float


class Mailbox:
    """Thread-safe; requests go before changes, and at most one merged change waits."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._requests: deque[Request] = deque()
        self._push: Push | None = None
        self._closed = False
        self._finishing = False
        self._failure: Exception | None = None

    def put_request(self, request: Request) -> None:
        """From the thread that reads the stream; waits while too many wait. Raises Closed."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or self._finishing or len(self._requests) < MAX_REQUESTS
            )
            if self._closed or self._finishing:
                raise Closed
            self._requests.append(request)
            self._condition.notify_all()

    def put_delta(self, delta: Delta, since: float = 0.0) -> None:
        """From trio; never waits."""
        with self._condition:
            if self._push is None:
                now = time.monotonic()
                self._push = Push(delta, since or now, now)
            else:
                self._push = self._push._replace(delta=self._push.delta.merged(delta))
            self._condition.notify_all()

    def take(self) -> Request | Push:
        """For the stream's own thread; waits. Raises Closed, or what ``fail`` was given."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or self._finishing or self._requests or self._push
            )
            if self._closed:
                raise Closed
            if self._requests:
                request = self._requests.popleft()
                self._condition.notify_all()
                return request
            if self._push is None:
                raise self._failure or Closed()
            push, self._push = self._push, None
            return push

    def finish(self) -> None:
        """Let the stream's thread take what waits, and nothing more."""
        with self._condition:
            self._finishing = True
            self._condition.notify_all()

    def fail(self, failure: Exception) -> None:
        """As ``finish``, with a reason."""
        with self._condition:
            self._failure = failure
        self.finish()

    def close(self) -> None:
        """From any thread, more than once if need be."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
