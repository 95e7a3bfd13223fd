"""Counts requests against their limits, here and at rate limit services."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

import msgspec

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core import rate_limit_wire
from waypoint.core.envoy_filter import Limits
from waypoint.core.grpc import is_grpc
from waypoint.core.message import Reply, Request
from waypoint.core.rate_limit import (
    Entry,
    Found,
    GlobalLimit,
    LocalLimit,
    Rule,
    costs,
    descriptors,
    refusal,
    spend,
    told,
)
from waypoint.core.record import Record
from waypoint.core.token_bucket import Slots
from waypoint.io.fiber import in_task
from waypoint.io.mesh_call import CallError, MeshCalls
from waypoint.io.shared_slots import SharedSlots

log = get_logger("waypoint")
Pairs = tuple[Entry, ...]
Told = Callable[[], Awaitable[None]]
NOTED: Final = "envoy.filters.http.ratelimit"
"""Whose dynamic metadata a service's is."""


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
        for scope, limit in limits.local(to.port, to.route):
            where = f"{to.service}:{to.port}" + (f"/{to.route}" if scope.on_route else "")
            rules = limit.rules or limits.rules(to.port, to.route, limit.vh)
            found = self._local(limit, where, rules, to.cluster, request)
            if found.reply is not None:
                return found
            response += found.response
            added += found.request
        for counted, rules in _counted(limits, to):
            if self._draw() >= counted.enabled:
                continue
            found = await self._ask(counted, rules, to.cluster, request)
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
        found = descriptors(rules, limit.stage, request, cluster)
        verdict = spend(limit, where, found, self._slots, time.monotonic())
        if verdict is None:
            return Admitted()
        if verdict.passes:
            return Admitted(None, told(limit, verdict))
        if self._draw() >= limit.enforced:
            return Admitted(None, told(limit, verdict), limit.marks)
        return Admitted(refusal(limit, verdict, grpc=is_grpc(request.headers)))

    async def _ask(
        self, limit: GlobalLimit, rules: tuple[Rule, ...], cluster: str, request: Request
    ) -> Admitted:
        found = descriptors(rules, limit.stage, request, cluster)
        if not found:
            return Admitted()
        grpc = is_grpc(request.headers)
        try:
            async with in_task():
                raw = await self._call(limit, found)
            enforced = self._draw() < limit.enforced
            said = rate_limit_wire.answer(limit, raw, grpc=grpc, enforced=enforced)
        except (CallError, ValueError) as error:
            log.warning(Event.RATE_LIMITER_FAILED, domain=limit.domain, error=str(error))
            deny = self._draw() < limit.deny_on_error
            return Admitted(rate_limit_wire.failed(limit) if deny else None)
        if said.noted:
            request.metadata[NOTED] = said.noted
        return Admitted(said.refusal, said.response, said.request)

    async def _call(self, limit: GlobalLimit, found: tuple[Found, ...]) -> bytes:
        question = rate_limit_wire.question(limit.domain, found)
        return await self._calls.grpc(limit.at, rate_limit_wire.METHOD, question, limit.timeout_s)

    def ending(self, limits: Limits, to: Called, request: Request, record: Record) -> Told | None:
        """What services have yet to be told of an exchange that has ended (their answer changes
        nothing any more); None where that is nothing."""
        told = [
            (limit, found)
            for limit, rules in _counted(limits, to)
            if (found := costs(rules, limit.stage, request, to.cluster, record))
        ]
        return partial(self._tell, told) if told else None

    async def _tell(self, told: list[tuple[GlobalLimit, tuple[Found, ...]]]) -> None:
        for limit, found in told:
            try:
                await self._call(limit, found)
            except CallError as error:
                log.warning(Event.RATE_LIMITER_FAILED, domain=limit.domain, error=str(error))


def _counted(limits: Limits, to: Called) -> Iterator[tuple[GlobalLimit, tuple[Rule, ...]]]:
    """The limits that a service counts, as the route wants them, and what makes descriptors."""
    own = limits.of_route(to.port, to.route)
    if own.disabled:
        return
    for limit in limits.counted():
        rules = own.rules or limit.rules or limits.rules(to.port, to.route, own.vh)
        changed = msgspec.structs.replace(limit, domain=own.domain) if own.domain else limit
        yield changed, rules
