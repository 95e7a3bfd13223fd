"""What every connection of the waypoint shares: configuration, state, upstreams, records."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Final

import trio

from ambient.api.spiffe import Identity
from ambient.api.workload import Workload
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import ACCESS_SCOPE, get_logger
from waypoint.core.cluster import Cluster
from waypoint.core.clusters import Clusters
from waypoint.core.decision import Upstream
from waypoint.core.directory import Directory
from waypoint.core.dispatch import Self
from waypoint.core.message import Headers
from waypoint.core.objects import Problem
from waypoint.core.program import Program
from waypoint.core.watches import Watches
from waypoint.io.ext_authz import Authorizers
from waypoint.io.fiber import now_s
from waypoint.io.key_store import KeySettings, KeyStore
from waypoint.io.mesh_call import MeshCalls
from waypoint.io.rate_limits import RateLimiter
from waypoint.io.reports import Reports
from waypoint.io.safeguards import Safeguards
from waypoint.io.upstream import Upstreams

access_log = get_logger(ACCESS_SCOPE)
log = get_logger("waypoint")

getrandbits = random.Random().getrandbits  # ids need not be secret
_UUID_MASK: Final = ~(0xF000 << 64 | 0xC000 << 48)
_UUID_4: Final = 0x4000 << 64 | 0x8000 << 48
SERVER: Final = ("server", "istio-envoy")
UPSTREAM_TIME: Final = "x-envoy-upstream-service-time"
DATE_S: Final = 0.5
"""How long a Date stays good: its finest step is a second."""


class Service:
    """One waypoint's parts. ``program`` is replaced as a whole when configuration changes."""

    def __init__(
        self,
        own: Self,
        directory: Directory,
        upstreams: Upstreams,
        *,
        network: str = "",
        jwks: KeySettings | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.own = own
        self.directory = directory
        self.upstreams = upstreams
        self.network = network
        calls = MeshCalls(self)
        self.reports = Reports(calls, directory, network, own.place, draw)
        self.keys = KeyStore(calls, jwks or KeySettings())
        self.limiter = RateLimiter(calls, draw)
        self.safeguards = Safeguards(Authorizers(calls, str(own.place.identity)), self.keys)
        self.told_by: Identity | None = None
        """Our identity where applications are told who their client is."""
        self.draw = draw
        self.program = Program(own.place)
        self.clusters = Clusters(draw)
        self._nursery: trio.Nursery | None = None
        self._standing: tuple[int, Workload | None] = (-1, None)
        self.draining = False
        self.drained = trio.Event()
        """Set when draining begins."""
        self._waiting: dict[trio.CancelScope, float] = {}
        self._resting: dict[Callable[[], None], float] = {}
        self._reported: set[Problem] = set()
        self._today, self._date_until_s = "", -math.inf

    async def run(self) -> None:
        """Look after what outlives its request, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.upstreams.run)
            nursery.start_soon(self.keys.run)
            nursery.start_soon(self.reports.run)
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def background(self, task: Callable[[], Awaitable[None]]) -> None:
        """Start a task that nobody waits for; nothing happens where the service ends already."""
        if self._nursery is not None:
            self._nursery.start_soon(task)

    def replace_program(self, program: Program) -> None:
        """Use another configuration from the next request on; new problems are logged once."""
        self.program = program
        self.keys.want(program.guards.key_sources)
        self.reports.watches = Watches(program)
        current = {*program.problems, *self.reports.watches.problems}
        for problem in sorted(current - self._reported):
            log.warning(
                Event.CONFIG_NOT_ENFORCED,
                object=problem.object,
                field=problem.field,
                reason=problem.reason,
                effect=problem.effect,
            )
        self._reported = current

    def cluster(self, upstream: Upstream, at_s: float | None = None) -> Cluster:
        """What is known of the endpoints of an upstream; ``at_s`` is now, where it is known."""
        generation, own = self._standing
        if generation != self.directory.generation:
            own = self._own_workload()
        return self.clusters.get(upstream, own, now_s() if at_s is None else at_s)

    def _own_workload(self) -> Workload | None:
        """The waypoint's own entry in the mesh, which says where it stands."""
        all_of_them = (self.directory.workload_by_address(at) for at in self.own.addresses)
        found = next((workload for workload in all_of_them if workload is not None), None)
        self._standing = self.directory.generation, found
        return found

    def request_id(self) -> str:
        """A new x-request-id: a random UUID (RFC 9562, version 4)."""
        number = getrandbits(128)
        text = f"{number & _UUID_MASK | _UUID_4:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def stamp(self, headers: Headers, upstream_ms: int | None = None) -> None:
        """What every response carries: Date, Server as Istio's proxies say it, and how long the
        endpoint took."""
        dated = False
        kept: list[tuple[str, str]] = []
        for field in headers.items:
            name = field[0]
            if name == "date":
                dated = True
            elif name == "server" or (name == UPSTREAM_TIME and upstream_ms is not None):
                continue
            kept.append(field)
        kept.append(SERVER)
        if not dated:
            kept.append(("date", self._date()))
        if upstream_ms is not None:
            kept.append((UPSTREAM_TIME, str(upstream_ms)))
        headers.items = kept

    def _date(self) -> str:
        at_s = now_s()
        if at_s >= self._date_until_s:
            self._today, self._date_until_s = formatdate(usegmt=True), at_s + DATE_S
        return self._today

    def rest(self, wake: Callable[[], None], grace_s: float) -> None:
        """A connection waits for its next request; ``wake`` is called when we drain.

        ``grace_s`` is how long it may still wait then.
        """
        self._resting[wake] = grace_s
        if self.draining:
            self._wake_later(wake, grace_s)

    def rested(self, wake: Callable[[], None]) -> None:
        """It does not wait any more."""
        del self._resting[wake]

    def _wake_later(self, wake: Callable[[], None], grace_s: float) -> None:
        async def after_grace() -> None:
            await trio.sleep(grace_s)
            if wake in self._resting:
                wake()

        if grace_s and self._nursery is not None:
            self.background(after_grace)
        else:
            wake()

    def waiting(self, grace_s: float = 0.0) -> trio.CancelScope:
        """A scope for a connection that waits for its next request; draining ends the wait.

        ``grace_s`` is how long it may still wait then.
        """
        scope = trio.CancelScope()
        self._waiting[scope] = grace_s
        if self.draining:
            scope.deadline = trio.current_time() + grace_s
        return scope

    @contextmanager
    def idle(self, grace_s: float = 0.0) -> Iterator[trio.CancelScope]:
        """``waiting`` around a block; look at ``cancelled_caught`` of the scope behind it."""
        scope = self.waiting(grace_s)
        try:
            with scope:
                yield scope
        finally:
            self.served(scope)

    def served(self, scope: trio.CancelScope) -> None:
        """The connection does not wait any more."""
        del self._waiting[scope]

    def drain(self) -> None:
        """Answer what was asked and take nothing more: idle connections end now."""
        self.draining = True
        self.drained.set()
        for wake, grace_s in list(self._resting.items()):
            self._wake_later(wake, grace_s)
        for scope, grace_s in self._waiting.items():
            scope.deadline = trio.current_time() + grace_s
