"""Counts requests against their limits, here and at rate limit services."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core import rate_limit_wire
from waypoint.core.envoy_filter import Limits
from waypoint.core.message import Reply, Request
from waypoint.core.rate_limit import Buckets, LocalLimit, descriptors, refusal, told
from waypoint.io.fiber import in_task
from waypoint.io.mesh_call import CallError, MeshCalls

log = get_logger("waypoint")
Pairs = tuple[tuple[str, str], ...]


class Admitted(NamedTuple):
    """What became of a request."""

    reply: Reply | None = None
    response: Pairs = ()
    request: Pairs = ()


class RateLimiter:
    """One for the process: its buckets are shared by all connections."""

    def __init__(self, calls: MeshCalls, draw: Callable[[], float]) -> None:
        self._calls = calls
        self._draw = draw
        self._buckets = Buckets()

    async def admit(
        self, limits: Limits, port: int, route: str, cluster: str, request: Request
    ) -> Admitted:
        """The refusal, or fields for the response, and for the request upstream."""
        response: Pairs = ()
        added: Pairs = ()
        for limit in limits.local(port, route):
            reply, more = self._local(limit, cluster, request)
            if reply is not None:
                return Admitted(reply)
            response += more
        for counted in limits.counted():
            found = descriptors(limits.actions(port, route), request, cluster)
            if not found:
                continue
            try:
                question = rate_limit_wire.question(counted, found)
                async with in_task():
                    raw = await self._calls.grpc(
                        counted.at, rate_limit_wire.METHOD, question, counted.timeout_s
                    )
                reply, more, upstream = rate_limit_wire.answer(counted, raw)
            except CallError as error:
                log.warning(Event.RATE_LIMITER_FAILED, domain=counted.domain, error=str(error))
                reply, more, upstream = rate_limit_wire.failed(counted), (), ()
            if reply is not None:
                return Admitted(reply)
            response += more
            added += upstream
        return Admitted(None, response, added)

    def keep(self, names: frozenset[str]) -> None:
        """Forget what was counted for limits that are configured no more."""
        self._buckets.keep(names)

    def _local(
        self, limit: LocalLimit, cluster: str, request: Request
    ) -> tuple[Reply | None, Pairs]:
        if self._draw() >= limit.enabled:
            return None, ()
        found = descriptors(limit.actions, request, cluster)
        verdict = self._buckets.take(limit, found, trio.current_time())
        if verdict is None:
            return None, ()
        if verdict.passes or self._draw() >= limit.enforced:
            return None, told(limit, verdict)
        return refusal(limit, verdict), ()
