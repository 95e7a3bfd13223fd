"""Counts requests against their limits, here and at rate limit services."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core import rate_limit_wire
from waypoint.core.envoy_filter import Limits
from waypoint.core.grpc import is_grpc
from waypoint.core.message import Reply, Request
from waypoint.core.rate_limit import (
    Entry,
    GlobalLimit,
    LocalLimit,
    Rule,
    descriptors,
    refusal,
    spend,
    told,
)
from waypoint.core.token_bucket import Slots
from waypoint.io.fiber import in_task
from waypoint.io.mesh_call import CallError, MeshCalls
from waypoint.io.shared_slots import SharedSlots

log = get_logger("waypoint")
Pairs = tuple[Entry, ...]


class Called(NamedTuple):
    """What a request is for: a service's port, a route of it by name, and the route's cluster."""

    service: str
    port: int
    route: str
    cluster: str


class Admitted(NamedTuple):
    """What became of a request: the refusal, or fields for the response, and for upstream."""

    reply: Reply | None = None
    response: Pairs = ()
    request: Pairs = ()


class RateLimiter:
    """One for the process; workers ``share`` their buckets."""

    def __init__(self, calls: MeshCalls, draw: Callable[[], float]) -> None:
        self._calls = calls
        self._draw = draw
        self._slots: Slots = SharedSlots()

    def share(self, fd: int) -> None:
        """Count in a table that other workers count in, too (``shared_slots.create``)."""
        self._slots = SharedSlots(fd)

    async def admit(self, limits: Limits, to: Called, request: Request) -> Admitted:
        """Count a request against every limit that concerns it, until one refuses it."""
        response: Pairs = ()
        added: Pairs = ()
        rules = limits.rules(to.port, to.route)
        for scope, limit in limits.local(to.port, to.route):
            where = f"{to.service}:{to.port}" + (f"/{to.route}" if scope.on_route else "")
            found = self._local(limit, where, rules, to.cluster, request)
            if found.reply is not None:
                return found
            response += found.response
            added += found.request
        for counted in limits.counted():
            found = await self._counted(counted, rules, to.cluster, request)
            if found.reply is not None:
                return found
            response += found.response
            added += found.request
        return Admitted(None, response, added)

    def _local(
        self, limit: LocalLimit, where: str, rules: tuple[Rule, ...], cluster: str, request: Request
    ) -> Admitted:
        if self._draw() >= limit.enabled:
            return Admitted()
        found = descriptors(limit.rules or rules, limit.stage, request, cluster)
        verdict = spend(limit, where, found, self._slots, time.monotonic())
        if verdict is None:
            return Admitted()
        if verdict.passes:
            return Admitted(None, told(limit, verdict))
        if self._draw() >= limit.enforced:
            return Admitted(None, told(limit, verdict), limit.marks)
        return Admitted(refusal(limit, verdict, grpc=is_grpc(request.headers)))

    async def _counted(
        self, limit: GlobalLimit, rules: tuple[Rule, ...], cluster: str, request: Request
    ) -> Admitted:
        found = descriptors(rules, limit.stage, request, cluster)
        if not found:
            return Admitted()
        grpc = is_grpc(request.headers)
        try:
            question = rate_limit_wire.question(limit, found)
            async with in_task():
                raw = await self._calls.grpc(
                    limit.at, rate_limit_wire.METHOD, question, limit.timeout_s
                )
            return Admitted(*rate_limit_wire.answer(limit, raw, grpc=grpc))
        except CallError as error:
            log.warning(Event.RATE_LIMITER_FAILED, domain=limit.domain, error=str(error))
            return Admitted(rate_limit_wire.failed(limit))
