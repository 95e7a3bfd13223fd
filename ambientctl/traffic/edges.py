"""Traffic between workloads, out of the metrics of tunnels and waypoints. Pure.

Both tunnels of a connection count it, and waypoints count its requests once more. An edge is one
real flow: the destination's tunnel counts where there is one, the source's otherwise; connections
from and to a waypoint are left out where the waypoint tells of their requests itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.traffic import quantile

UNKNOWN: Final = names.UNKNOWN
TCP, HTTP = "TCP", "HTTP"
_COUNTED: Final = {
    f"{names.CONNECTIONS_OPENED}_total": "opened",
    f"{names.CONNECTIONS_FAILED}_total": "failed",
    f"{names.SENT_BYTES}_total": "sent",
    f"{names.RECEIVED_BYTES}_total": "received",
}


class Node(NamedTuple):
    """A workload; namespace empty for what the mesh does not know."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Edge(NamedTuple):
    """Who calls whom, and how; ``service`` is what was called, empty for a pod's own address."""

    source: Node
    destination: Node
    service: str
    protocol: str
    secure: bool


class Counters(msgspec.Struct):
    """Since the start of the proxies, or between two moments."""

    opened: float = 0
    failed: float = 0
    denied: float = 0
    """Connections and requests that a policy refused; they are in no other count of failures."""
    sent: float = 0
    received: float = 0
    requests: float = 0
    errors: float = 0
    buckets: dict[float, float] = {}
    """Requests by upper bound in milliseconds, cumulative."""

    def add(self, other: Counters, sign: int = 1) -> None:
        """In place; never below zero, which a restarted proxy would bring about."""
        for name in _SUMS:
            setattr(self, name, max(getattr(self, name) + sign * getattr(other, name), 0))
        for bound, number in other.buckets.items():
            self.buckets[bound] = max(self.buckets.get(bound, 0) + sign * number, 0)

    def quantile(self, share: float) -> float | None:
        """Milliseconds; None without requests."""
        return quantile(dict(sorted(self.buckets.items())), share)


_SUMS: Final = tuple(
    field.name for field in msgspec.structs.fields(Counters) if field.name != "buckets"
)
Traffic = dict[Edge, Counters]


class _Key(NamedTuple):
    reporter: str
    edge: Edge


def read_all(texts: Iterable[str]) -> Traffic:
    """Of all proxies, one edge for each real flow. Raises ValueError."""
    found: dict[_Key, Counters] = {}
    for text in texts:
        for key, counters in _read(text).items():
            found.setdefault(key, Counters()).add(counters)
    return dict(_merged(found))


def _read(text: str) -> dict[_Key, Counters]:
    found: dict[_Key, Counters] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("istio_"):
            continue
        for sample in family.samples:
            _note(sample.name, sample.labels, sample.value, found)
    return found


def _note(name: str, labels: Mapping[str, str], value: float, found: dict[_Key, Counters]) -> None:
    counted = _COUNTED.get(name)
    request = name == f"{names.REQUESTS}_total"
    bucket = name == f"{names.REQUEST_MILLISECONDS}_bucket"
    if counted is None and not request and not bucket:
        return
    key = _Key(labels.get("reporter", ""), _edge(labels, HTTP if request or bucket else TCP))
    one = found.setdefault(key, Counters())
    if counted == "failed" and labels.get("response_flags") == names.ResponseFlag.DENY:
        one.denied += value
    elif counted is not None:
        setattr(one, counted, getattr(one, counted) + value)
    elif request:
        _note_request(one, labels, value)
    else:
        bound = float(labels.get("le", "inf"))
        one.buckets[bound] = one.buckets.get(bound, 0) + value


def _note_request(one: Counters, labels: Mapping[str, str], value: float) -> None:
    """A 401 or 403 without a backend is a waypoint's own; with one it is the application's."""
    code = labels.get("response_code", "")
    backend = labels.get("destination_workload", UNKNOWN)
    one.requests += value
    if code.startswith("5"):
        one.errors += value
    elif code in ("401", "403") and backend in ("", UNKNOWN):
        one.denied += value


def _edge(labels: Mapping[str, str], protocol: str) -> Edge:
    service = labels.get("destination_service", "")
    secure = labels.get("connection_security_policy") == "mutual_tls"
    destination = _node(labels, "destination")
    if destination.name == UNKNOWN and service not in ("", UNKNOWN):
        space = labels.get("destination_service_namespace", "")
        known = space not in ("", UNKNOWN)
        destination = (
            Node(space, labels["destination_service_name"]) if known else Node("", service)
        )
    return Edge(
        _node(labels, "source"),
        destination,
        "" if service == UNKNOWN else service,
        protocol,
        secure,
    )


def _node(labels: Mapping[str, str], side: str) -> Node:
    namespace = labels.get(f"{side}_workload_namespace", "")
    name = labels.get(f"{side}_workload", "") or UNKNOWN
    return Node("" if namespace == UNKNOWN else namespace, name)


def _merged(found: Mapping[_Key, Counters]) -> Iterator[tuple[Edge, Counters]]:
    """One reporter an edge: the waypoint, else the destination's tunnel, else the source's."""
    waypoints = {key.edge for key in found if key.reporter == "waypoint"}
    fronts = _waypoints_between(found)
    by_edge: dict[Edge, dict[str, Counters]] = {}
    for key, counters in found.items():
        edge = key.edge
        if edge.protocol == TCP and (edge.source in fronts or edge.destination in fronts):
            continue
        by_edge.setdefault(edge, {}).setdefault(key.reporter, Counters()).add(counters)
    for edge, reporters in by_edge.items():
        if edge.protocol == TCP and edge._replace(protocol=HTTP) in waypoints:
            continue
        for reporter in ("waypoint", "destination", "source", ""):
            if reporter in reporters:
                yield edge, reporters[reporter]
                break


def _waypoints_between(found: Iterable[_Key]) -> set[Node]:
    """Workloads through which requests went: called by a source of requests, calling their
    destination, and no end of any request themselves.
    """
    keys = list(found)
    requests = [key.edge for key in keys if key.reporter == "waypoint"]
    ends = {edge.source for edge in requests} | {edge.destination for edge in requests}
    called: dict[Node, set[Node]] = {}
    calls: dict[Node, set[Node]] = {}
    for key in keys:
        if key.edge.protocol == TCP:
            called.setdefault(key.edge.destination, set()).add(key.edge.source)
            calls.setdefault(key.edge.source, set()).add(key.edge.destination)
    return {
        node
        for node in called.keys() & calls.keys()
        if node not in ends
        and any(e.source in called[node] and e.destination in calls[node] for e in requests)
    }


def by_workloads(found: Traffic) -> Traffic:
    """The same without the services that were called: one edge for two workloads."""
    made: Traffic = {}
    for edge, counters in found.items():
        made.setdefault(edge._replace(service=""), Counters()).add(counters)
    return made


def difference(before: Traffic, after: Traffic) -> Traffic:
    """What came in between."""
    made: Traffic = {}
    for edge, counters in after.items():
        one = Counters()
        one.add(counters)
        if edge in before:
            one.add(before[edge], -1)
        made[edge] = one
    return made
