"""What waits for one xDS stream's thread: requests in order, changes merged into one."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from ambient.xds.core.delta_server import Request
from istiod_lite.core.snapshot import Delta

MAX_REQUESTS: Final = 32
"""A client that sends faster than it is answered waits in HTTP/2's window."""


class Closed(Exception):  # noqa: N818 - an end, not an error
    """The stream is over."""


class Mailbox:
    """Thread-safe; requests go before changes, and at most one merged change waits."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._requests: deque[Request] = deque()
        self._delta: Delta | None = None
        self._closed = False

    def put_request(self, request: Request) -> None:
        """From the thread that reads the stream; waits while too many wait. Raises Closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or len(self._requests) < MAX_REQUESTS)
            if self._closed:
                raise Closed
            self._requests.append(request)
            self._condition.notify_all()

    def put_delta(self, delta: Delta) -> None:
        """From trio; never waits."""
        with self._condition:
            self._delta = delta if self._delta is None else self._delta.merged(delta)
            self._condition.notify_all()

    def take(self) -> Request | Delta:
        """For the stream's own thread; waits. Raises Closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._requests or self._delta)
            if self._closed:
                raise Closed
            if self._requests:
                request = self._requests.popleft()
                self._condition.notify_all()
                return request
            delta, self._delta = self._delta, None
            assert delta is not None
            return delta

    def close(self) -> None:
        """From any thread, more than once if need be."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
