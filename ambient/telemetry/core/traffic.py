"""Who talks to whom: what scraped metrics of tunnels and waypoints amount to.

Tunnels count connections and bytes, waypoints requests. Both ends of a tunnel count the same
connection: the server's count is taken, the client's only where the server has no tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from ambient.telemetry.core import metric_names as names

UNKNOWN: Final = "unknown"
MTLS: Final = "mutual_tls"


class Party(NamedTuple):
    """A workload; both empty for clients outside the mesh."""

    namespace: str
    workload: str


class Pair(NamedTuple):
    """One edge of the graph; ``service`` is the host that was called, empty for a pod's address."""

    source: Party
    destination: Party
    service: str


class Totals(msgspec.Struct, kw_only=True):
    """Counted since the start of whoever counted; ``Rates`` has the meaning of each."""

    requests: float = 0
    errors: float = 0
    refused: float = 0
    opened: float = 0
    secured: float = 0
    denied: float = 0
    failed: float = 0
    sent: float = 0
    received: float = 0
    buckets: dict[float, float] = {}

    def add(self, other: Totals) -> None:
        """Of another pod of the same workload."""
        for field in _FIELDS:
            setattr(self, field, getattr(self, field) + getattr(other, field))
        for bound, count in other.buckets.items():
            self.buckets[bound] = self.buckets.get(bound, 0) + count


_FIELDS: Final = tuple(
    field.name for field in msgspec.structs.fields(Totals) if field.name != "buckets"
)


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What a pair does, a second."""

    requests: float
    errors: float
    """Answered with 5xx."""
    refused: float
    """Answered with 401, 403 or 429."""
    p50_ms: float | None
    p99_ms: float | None
    opened: float
    """Connections."""
    secured: float | None
    """Share of connections (denied ones, too) and requests with mutual TLS, from 0 to 1; None where
    there are none.
    """
    denied: float
    """Connections that a policy refused."""
    failed: float
    """Connections that failed otherwise."""
    sent: float
    """Bytes, from the server to the client."""
    received: float
    """Bytes, from the client to the server."""


class Decisions(msgspec.Struct):
    """What one policy decided since the start of whoever counted."""

    allowed: float = 0
    denied: float = 0
    would_deny: float = 0

    def add(self, other: Decisions) -> None:
        """Of another program."""
        self.allowed += other.allowed
        self.denied += other.denied
        self.would_deny += other.would_deny


class Seen(NamedTuple):
    """A pair as one side saw it; ``reporter`` is a metric's label, or ``REQUESTS``."""

    reporter: str
    pair: Pair


Scrape = Mapping[Seen, Totals]
CLIENT: Final = "source"
SERVER: Final = "destination"
REQUESTS: Final = "requests"


def read(text: str) -> dict[Seen, Totals]:
    """The pairs of one exposition (Prometheus' text format). Raises ValueError for other texts."""
    found: dict[Seen, Totals] = {}
    lines = [line for line in text.splitlines() if line.startswith(_PREFIXES)]
    if text and not lines and "# TYPE" not in text:
        raise ValueError("this is no exposition of metrics")
    for family in text_string_to_metric_families("\n".join(lines)):
        for sample in family.samples:
            if sample.name in _COUNTED:
                reporter = sample.labels.get("reporter", "")
                seen = Seen(
                    REQUESTS if sample.name in _REQUESTS else reporter, _pair(sample.labels)
                )
                _count(found.setdefault(seen, Totals()), sample.name, sample.labels, sample.value)
    return found


def decisions(text: str) -> dict[str, Decisions]:
    """How often each policy of one exposition decided, by ``namespace/name``."""
    found: dict[str, Decisions] = {}
    wanted = (names.POLICY_DECISIONS, names.DRY_RUN_DENIALS)
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    for family in text_string_to_metric_families("\n".join(lines)):
        for sample in family.samples:
            one = found.setdefault(sample.labels.get("policy", ""), Decisions())
            if sample.name.startswith(names.DRY_RUN_DENIALS):
                one.would_deny += sample.value
            elif sample.labels.get("decision") == "deny":
                one.denied += sample.value
            else:
                one.allowed += sample.value
    return found


def since(before: Scrape, after: Scrape) -> dict[Seen, Totals]:
    """What one program counted between two scrapes; a counter that fell has begun anew."""
    return {seen: _difference(before.get(seen, Totals()), new) for seen, new in after.items()}


def _difference(old: Totals, new: Totals) -> Totals:
    again = new.opened < old.opened or new.requests < old.requests
    if again:
        return new
    made = Totals()
    for field in _FIELDS:
        setattr(made, field, getattr(new, field) - getattr(old, field))
    made.buckets = {
        bound: count - old.buckets.get(bound, 0) for bound, count in new.buckets.items()
    }
    return made


def rates(counted: Iterable[Scrape], seconds: float) -> dict[Pair, Rates]:
    """The pairs of several programs, from what each counted in this time."""
    sums: dict[Seen, Totals] = {}
    for scrape in counted:
        for seen, totals in scrape.items():
            sums.setdefault(seen, Totals()).add(totals)
    # The client may know the service by which it called a pod, the server only itself.
    served = {(pair.source, pair.destination) for reporter, pair in sums if reporter == SERVER}
    pairs: dict[Pair, Totals] = {}
    for (reporter, pair), totals in sums.items():
        if reporter != CLIENT or (pair.source, pair.destination) not in served:
            pairs.setdefault(pair, Totals()).add(totals)
    return {pair: _rates(totals, seconds) for pair, totals in pairs.items()}


def _rates(counted: Totals, seconds: float) -> Rates:
    counts = dict(sorted(counted.buckets.items()))
    together = counted.opened + counted.requests + counted.denied
    return Rates(
        requests=counted.requests / seconds,
        errors=counted.errors / seconds,
        refused=counted.refused / seconds,
        p50_ms=quantile(counts, 0.5),
        p99_ms=quantile(counts, 0.99),
        opened=counted.opened / seconds,
        secured=min(counted.secured / together, 1.0) if together else None,
        denied=counted.denied / seconds,
        failed=counted.failed / seconds,
        sent=counted.sent / seconds,
        received=counted.received / seconds,
    )


def quantile(counts: Mapping[float, float], share: float) -> float | None:
    """Of cumulative counts by upper bound, in order; as Prometheus does it (histogram_quantile)."""
    bounds = list(counts.items())
    if not bounds or not bounds[-1][1]:
        return None
    rank, low, below = share * bounds[-1][1], 0.0, 0.0
    for bound, count in bounds:
        if count >= rank:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low


_REQUESTS: Final = frozenset(
    {
        "istio_requests_total",
        "istio_request_duration_milliseconds_bucket",
    }
)
_OPENED: Final = f"{names.CONNECTIONS_OPENED}_total"
_FAILED: Final = f"{names.CONNECTIONS_FAILED}_total"
_SENT: Final = f"{names.SENT_BYTES}_total"
_RECEIVED: Final = f"{names.RECEIVED_BYTES}_total"
_COUNTED: Final = _REQUESTS | {_OPENED, _FAILED, _SENT, _RECEIVED}
_PREFIXES: Final = tuple(_COUNTED)
"""Lines that are parsed; a busy tunnel exposes many more."""
_REFUSALS: Final = frozenset({"401", "403", "429"})


def _pair(labels: Mapping[str, str]) -> Pair:
    def known(name: str) -> str:
        value = labels.get(name, "")
        return "" if value == UNKNOWN else value

    called = Party(known("destination_workload_namespace"), known("destination_workload"))
    if not called.workload and known("destination_service_namespace"):
        # Refused before a backend was chosen: what was called is known all the same.
        called = Party(known("destination_service_namespace"), known("destination_service_name"))
    source = Party(known("source_workload_namespace"), known("source_workload"))
    return Pair(source, called, known("destination_service"))


def _count(totals: Totals, name: str, labels: Mapping[str, str], value: float) -> None:
    if name == "istio_requests_total":
        code = labels.get("response_code", "")
        totals.requests += value
        totals.secured += value if labels.get("connection_security_policy") == MTLS else 0
        totals.errors += value if code.startswith("5") else 0
        totals.refused += value if code in _REFUSALS else 0
    elif name == "istio_request_duration_milliseconds_bucket":
        bound = float(labels["le"])
        totals.buckets[bound] = totals.buckets.get(bound, 0) + value
    elif name == _OPENED:
        totals.opened += value
        totals.secured += value if labels.get("connection_security_policy") == MTLS else 0
    elif name == _FAILED and labels.get("response_flags") == names.ResponseFlag.DENY:
        totals.denied += value
        totals.secured += value if labels.get("connection_security_policy") == MTLS else 0
    elif name == _FAILED:
        totals.failed += value
    elif name == _SENT:
        totals.sent += value
    else:
        totals.received += value
