"""Every connection that this tunnel carries: its log line, its counts, and a way to end it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.api.workload import Workload
from ambient.hbone.core.counters import Counters
from ambient.net.core.wire import Add
from ambient.policy.core.decide import Verdict
from ambient.policy.core.explain import nearest_miss
from ambient.telemetry.core.access_record import (
    DRAINED,
    POLICY_CHANGED,
    AccessRecord,
    Direction,
)
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.core.metric_names import ResponseFlag
from ambient.telemetry.io.logs import ACCESS_SCOPE, get_logger, is_logged
from ambient.telemetry.io.metrics_http import TrafficMetrics
from ztunnel.core.admit import Permit, judge_again
from ztunnel.core.describe import Described
from ztunnel.io.failures import DeniedError, flag_of
from ztunnel.io.mesh_view import MeshView

access_log = get_logger(ACCESS_SCOPE)
policy_log = get_logger("policy")


class LiveConnection:
    """A connection that is open now."""

    def __init__(self, info: Add, described: Described, protocol: str) -> None:
        self.pod: Final = info
        self.record: Final = described.record
        self.labels: Final = described.labels
        self.protocol: Final = protocol
        """TCP or HBONE, as the connection dump shows it."""
        self.counters: Final = Counters()
        self.scope: Final = trio.CancelScope()
        self.workload_uid = ""
        """Inbound only: the workload that policies judge."""
        self.permit: Permit | None = None
        """Inbound only: what was allowed, to be judged again when policies change."""
        self.reason = ""
        """Outbound only: why it goes where it goes."""
        self.cut = ""
        """Why we ended it ourselves; empty while nobody has."""

    def end(self, why: str) -> None:
        """Close it at once."""
        self.cut = self.cut or why
        self.scope.cancel()


class Connections:
    """The books of all pods' connections."""

    def __init__(self, view: MeshView, metrics: TrafficMetrics) -> None:
        self._view = view
        self._metrics = metrics
        self._live: set[LiveConnection] = set()
        self._listeners: list[list[AccessRecord]] = []

    @property
    def live(self) -> frozenset[LiveConnection]:
        """A copy of what is open now."""
        return frozenset(self._live)

    @contextmanager
    def overheard(self) -> Iterator[list[AccessRecord]]:
        """The records of all connections that come in the meantime, as they come."""
        heard: list[AccessRecord] = []
        self._listeners.append(heard)
        try:
            yield heard
        finally:
            self._listeners = [one for one in self._listeners if one is not heard]

    def refuse(self, record: AccessRecord, error: MeshError) -> None:
        """A connection that ends before it was open: one line, no traffic counts."""
        for heard in self._listeners:
            heard.append(record)
        record.error = str(error)
        hint = {"hint": error.hint} if error.hint else {}
        access_log.warning(Event.CONN_FAILED, **record.refused_fields(), **hint)

    @contextmanager
    def open(
        self, info: Add, described: Described, protocol: str, since_s: float | None = None
    ) -> Iterator[LiveConnection]:
        """The life of one connection; its end is logged and counted however it comes.

        A MeshError or OSError from within is the connection's error and ends here, and so does
        ``LiveConnection.end``; a cancellation from outside is a drain, is noted and goes on.
        ``since_s``: when it was accepted, where that is not now.
        """
        live = LiveConnection(info, described, protocol)
        sent_is_response = live.record.direction is Direction.INBOUND
        counted = self._metrics.opened(
            live.labels, live.counters, sent_is_response=sent_is_response
        )
        self._live.add(live)
        for heard in self._listeners:
            heard.append(live.record)
        if is_logged(ACCESS_SCOPE, "debug"):
            access_log.debug(Event.CONN_OPENED, **live.record.opened_fields())
        started_s = trio.current_time() if since_s is None else since_s
        flag = ResponseFlag.FINE
        try:
            with live.scope:
                yield live
            if live.cut:
                live.record.error = live.cut
                flag = ResponseFlag.DENY if live.cut == POLICY_CHANGED else ResponseFlag.FINE
        except (MeshError, OSError) as error:
            live.record.error = str(error)
            flag = flag_of(error)
            if isinstance(error, DeniedError) and error.denial.verdict is not None:
                self._metrics.policies.decided(error.denial.verdict.policy, allowed=False)
                _tell_denial(live, error.denial.verdict, error.nearest)
        except trio.Cancelled:
            live.record.error = DRAINED
            raise
        finally:
            self._live.discard(live)
            self._metrics.closed(counted, flag)
            self._log_end(live, trio.current_time() - started_s)

    def admitted(self, live: LiveConnection, server: Workload, permit: Permit) -> None:
        """From now on every change of policies judges the connection again."""
        live.permit = permit
        live.workload_uid = server.uid
        self._metrics.policies.decided(permit.verdict.policy, allowed=True)
        if permit.verdict.dry_run_denials:
            self._metrics.policies.would_deny(permit.verdict.dry_run_denials)
            denials = ", ".join(permit.verdict.dry_run_denials)
            policy_log.info(Event.POLICY_DRY_RUN, **_parties(live), would_be_denied_by=denials)

    def judge_again(self, changed: frozenset[str] | None = None) -> int:
        """Policies have changed, or (``changed``) only these workloads: cut what is no longer
        allowed and leave the others alone. Answers how many were cut.
        """
        judged = closed = 0
        for live in self.live:
            if live.permit is None or live.cut:
                continue
            if changed is not None and live.workload_uid not in changed:
                continue
            workload = self._view.find(live.pod)
            if workload is None:
                continue  # Its pod is being replaced or removed; the node agent decides that.
            verdict = judge_again(self._view.state, workload, live.permit.connection)
            judged += 1
            if not verdict.allowed:
                policies = self._view.state.policies_for(workload)
                nearest = "" if verdict.policy else nearest_miss(policies, live.permit.connection)
                _tell_denial(live, verdict, nearest)
                self._metrics.policies.decided(verdict.policy, allowed=False)
                live.end(POLICY_CHANGED)
                closed += 1
        if judged:
            tell = policy_log.info if closed else policy_log.debug
            tell(Event.POLICY_REJUDGED, judged=judged, closed=closed)
        return closed

    def _log_end(self, live: LiveConnection, duration_s: float) -> None:
        record = live.record
        record.bytes_sent, record.bytes_received = live.counters.sent, live.counters.received
        record.duration_s = duration_s
        write = access_log.error if record.error else access_log.info
        write(record.event, **record.fields())


def _tell_denial(live: LiveConnection, verdict: Verdict, nearest: str = "") -> None:
    more = {"nearest": nearest} if nearest else {}
    policy_log.info(
        Event.POLICY_DENIED, **_parties(live), policy=verdict.policy, reason=verdict.reason, **more
    )


def _parties(live: LiveConnection) -> dict[str, str]:
    record = live.record
    return {
        "src.addr": str(record.source.address),
        "src.identity": str(record.source.identity or ""),
        "dst.addr": record.hbone_address or str(record.destination.address),
    }
