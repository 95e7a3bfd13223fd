"""From a plan to a response: attempts at endpoints until one counts, within the route's time."""

from __future__ import annotations

import math
from typing import Final

import trio

from waypoint.core.grpc import is_grpc, timeout_s
from waypoint.core.local_reply import NO_HEALTHY_UPSTREAM, REQUEST_TIMEOUT
from waypoint.core.message import Reply, Request, Response
from waypoint.core.plan import Plan, Upstream
from waypoint.core.record import Record
from waypoint.core.reset import Reset
from waypoint.io.attempt import Attempt, Outcome
from waypoint.io.downstream import Downstream
from waypoint.io.service import Service

TRIES: Final = 3
"""Endpoints that one request may try to connect to."""


class Attempts:
    """The attempts of one request."""

    def __init__(
        self, service: Service, client: Downstream, request: Request, decided: Plan, record: Record
    ) -> None:
        self._service = service
        self._client = client
        self._request = request
        self._decided = decided
        self._record = record
        self._attempt = Attempt(service.upstreams, client, request)
        self._limit = trio.CancelScope()
        self._begun_s = 0.0

    async def run(self, upstream: Upstream) -> Reply | None:
        """None where the client got its response; else the reply that it is still owed.

        Raises ClientGoneError and BadMessageError.
        """
        timeout = self._timeout_s()
        if timeout is not None:
            self._start_clock_at_the_end_of_the_request(timeout)
        reply: Reply | None = None
        try:
            with self._limit:
                reply = await self._try_endpoints(upstream)
        finally:
            self._record.sent = self._attempt.sent
            self._record.received += self._attempt.upgraded_received
        return REQUEST_TIMEOUT if self._limit.cancelled_caught else reply

    def _timeout_s(self) -> float | None:
        """The route's timeout caps the deadline of a gRPC client; without one, the client's
        counts as it is (RouteAction.max_stream_duration.grpc_timeout_header_max)."""
        route = self._decided.route
        found = route.timeout_s if route is not None else None
        asked = timeout_s(self._request.headers) if is_grpc(self._request.headers) else None
        if found is None or asked is None:
            return found if asked is None else asked
        return min(found, asked)

    def _start_clock_at_the_end_of_the_request(self, timeout: float) -> None:
        def start() -> None:
            self._limit.deadline = trio.current_time() + timeout

        body = self._client.body
        if body.complete:
            start()
        else:
            body.when_complete = start

    async def _try_endpoints(self, upstream: Upstream) -> Reply | None:
        service, record = self._service, self._record
        tried: set[tuple[str, int]] = set()
        outcome: Outcome | None = None
        for _ in range(TRIES):
            target = service.balancer.choose(
                upstream.targets, upstream.balancing, group=upstream.cluster, tried=tried
            )
            if target is None:
                break
            record.target = target
            tried.add(target.key)
            self._begun_s = trio.current_time()
            outcome = await self._attempt.run(target, self._judge)
            if outcome.passed:
                return None
            if outcome.reset not in (Reset.CONNECTION_FAILURE, Reset.CONNECTION_TIMEOUT):
                break
        if outcome is None or outcome.reset is None:
            return NO_HEALTHY_UPSTREAM
        record.cause = outcome.cause
        return outcome.reset.reply(outcome.cause, started=self._client.started)

    def _judge(self, response: Response) -> bool:
        """Every response counts; it passes the route's filters."""
        self._decided.edit(response)
        record = self._record
        self._service.stamp(response.headers)
        record.upstream_ms = round((trio.current_time() - self._begun_s) * 1000)
        response.headers.set("x-envoy-upstream-service-time", str(record.upstream_ms))
        record.status, record.details = response.status, "via_upstream"
        if response.status == 101:
            self._limit.deadline = math.inf
        return True
