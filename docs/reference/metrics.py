"""The page of metrics: names and labels from the code, in the order of the programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client.metrics import MetricWrapperBase

from ambient.telemetry.core import metric_names as names
from istiod_lite.io.metrics import Metrics
from waypoint.io import cluster_metrics, log_export

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"


class Row(NamedTuple):
    name: str
    """As it is exposed, without the suffixes of a histogram."""
    kind: str
    meaning: str
    labels: Sequence[str] = ()


TRAFFIC: Final = "traffic"
"""Stands for the traffic labels, which are listed once."""
TCP: Final = (
    Row(f"{names.CONNECTIONS_OPENED}_total", COUNTER, "Connections that began.", (TRAFFIC,)),
    Row(f"{names.CONNECTIONS_CLOSED}_total", COUNTER, "Connections that ended.", (TRAFFIC,)),
    Row(f"{names.RECEIVED_BYTES}_total", COUNTER, "From client to server, whoever reports.", (TRAFFIC,)),
    Row(f"{names.SENT_BYTES}_total", COUNTER, "From server to client, whoever reports.", (TRAFFIC,)),
)  # fmt: skip
SHARED: Final = (
    Row(f"{names.POLICY_DECISIONS}_total", COUNTER, "What policies decided.", ("policy", "decision")),
    Row(f"{names.DRY_RUN_DENIALS}_total", COUNTER, "What dry-run policies would have refused.", ("policy",)),
    Row(f"{names.XDS_TERMINATIONS}_total", COUNTER, "Streams to the control plane that ended.", ("reason",)),
    Row(f"{names.XDS_MESSAGES}_total", COUNTER, "Messages of the control plane.", ("url",)),
    Row(f"{names.XDS_MESSAGE_BYTES}_total", COUNTER, "Their bytes.", ("url",)),
    Row(names.BUILD, GAUGE, "Always 1.", ("component", "tag")),
)  # fmt: skip
ZTUNNEL: Final = (
    *TCP,
    Row(f"{names.CONNECTIONS_FAILED}_total", COUNTER, "Connections that were refused or could not be made.", (TRAFFIC,)),
    Row(names.SOCKETS_OPEN, GAUGE, "Accepted sockets.", ("reporter",)),
    Row(f"{names.CRL_REJECTIONS}_total", COUNTER, "Peers whose certificate is revoked.", ("reporter",)),
    Row(f"{names.DNS_REQUESTS}_total", COUNTER, "Queries.", names.DNS_LABELS),
    Row(f"{names.DNS_UPSTREAM_REQUESTS}_total", COUNTER, "Queries that were passed on.", names.DNS_LABELS),
    Row(f"{names.DNS_UPSTREAM_FAILURES}_total", COUNTER, "Of these, those that nobody answered.", names.DNS_LABELS),
    Row(names.DNS_UPSTREAM_SECONDS, HISTOGRAM, "How long answers took.", names.DNS_LABELS),
    Row(f"{names.ON_DEMAND_DNS}_total", COUNTER, "Endpoints' names that were resolved.", names.ON_DEMAND_DNS_LABELS),
    Row(names.ACTIVE_PROXIES, GAUGE, "Pods served."),
    Row(names.PENDING_PROXIES, GAUGE, "Pods that cannot be served yet, and are tried again."),
    Row(f"{names.PROXIES_STARTED}_total", COUNTER, "Pods that came."),
    Row(f"{names.PROXIES_STOPPED}_total", COUNTER, "Pods that left."),
    Row(names.WORKERS, GAUGE, "Processes that serve pods, with several workers."),
    Row(f"{names.WORKER_RESTARTS}_total", COUNTER, "Workers that ended and were started again."),
    *SHARED,
)  # fmt: skip
WAYPOINT: Final = (
    Row(f"{names.REQUESTS}_total", COUNTER, "Requests.", (TRAFFIC, *names.REQUEST_LABELS)),
    Row(names.REQUEST_MILLISECONDS, HISTOGRAM, "How long they took, in milliseconds.", (TRAFFIC, *names.REQUEST_LABELS)),
    Row(names.REQUEST_BYTES, HISTOGRAM, "Size of requests.", (TRAFFIC, *names.REQUEST_LABELS)),
    Row(names.RESPONSE_BYTES, HISTOGRAM, "Size of responses.", (TRAFFIC, *names.REQUEST_LABELS)),
    Row(f"{names.REQUEST_MESSAGES}_total", COUNTER, "Messages of gRPC requests.", (TRAFFIC, *names.REQUEST_LABELS)),
    Row(f"{names.RESPONSE_MESSAGES}_total", COUNTER, "Messages of gRPC responses.", (TRAFFIC, *names.REQUEST_LABELS)),
    *TCP,
    *(Row(f"envoy_cluster_{name}", COUNTER, words, cluster_metrics.LABELS) for name, (words, _) in cluster_metrics.COUNTERS.items()),
    *(Row(f"envoy_cluster_{name}", GAUGE, words, cluster_metrics.LABELS) for name, (words, _) in cluster_metrics.GAUGES.items()),
    Row(f"{log_export.METRIC}_written", COUNTER, "Log entries that a receiver took."),
    Row(f"{log_export.METRIC}_dropped", COUNTER, "Log entries that no receiver took in time."),
    Row(names.WAYPOINT_WORKERS, GAUGE, "Processes, with several workers."),
    Row(f"{names.WAYPOINT_WORKER_RESTARTS}_total", COUNTER, "Workers that ended and were started again."),
    *SHARED,
)  # fmt: skip
ISTIOD: Final = (
    *(
        Row(f"citadel_server_{name}_expiry_{unit}", GAUGE, f"When the {what} ends: {text}.")
        for name, what in (("root_cert", "root"), ("cert_chain", "signing certificate"))
        for unit, text in (("timestamp", "Unix time"), ("seconds", "seconds from now"))
    ),
    Row(names.BUILD, GAUGE, "Always 1.", ("component", "tag")),
)
"""What the control plane adds to what it registers at once."""
HEAD: Final = """# Metrics

Made from the code (`make reference`). Names and labels are Istio's where Istio has them, Envoy's for clusters; those that begin
with `ambient_` are ours. A label without a value reads `unknown`. Dashboards, alerts and recording rules:
[watching the mesh](../observability.md). All programs also have `process_*` of Prometheus's library. The node agent's metrics are in [its own page](../cni.md#metrics).

## The traffic labels

`reporter` (`source` and `destination` are tunnels, `waypoint`), `connection_security_policy` (`mutual_tls` or `none`),
`response_flags` ([why a connection ended](#response-flags)), and who talks to whom:

"""


def page() -> str:
    """The whole page."""
    lines = [f"`{name}`" for name in names.TRAFFIC_LABELS]
    flags = ", ".join(
        f"`{flag}`" for key, flag in vars(names.ResponseFlag).items() if key.isupper()
    )
    return (
        HEAD
        + _wrapped(lines)
        + "\nWaypoints leave regions and zones out.\n"
        + f"\n### Response flags\n\nOf tunnels: {flags}. Waypoints use Envoy's.\n"
        + _section("ztunnel", "Port 15020, `/metrics` and `/stats/prometheus`.", ZTUNNEL)
        + _section("waypoint", "Port 15020, `/stats/prometheus`.", WAYPOINT)
        + _section("istiod-lite", "Port 15014, `/metrics`.", [*control_plane(), *ISTIOD])
    )


def control_plane() -> Iterator[Row]:
    """What a control plane registers when it starts."""
    ours = (
        one
        for one in Metrics().registry._collector_to_names
        if isinstance(one, MetricWrapperBase) and one._name != names.BUILD
    )
    for collector in sorted(ours, key=lambda one: one._name):
        (family,) = collector.describe()
        name = f"{family.name}_total" if family.type == COUNTER else family.name
        kind = family.type if family.type in (GAUGE, HISTOGRAM) else COUNTER
        yield Row(name, kind, family.documentation, collector._labelnames)


def _section(program: str, where: str, rows: Sequence[Row]) -> str:
    lines = [
        f"\n## {program}\n\n{where}\n\n| name | kind | labels | meaning |\n| --- | --- | --- | --- |\n"
    ]
    for row in rows:
        words = ", ".join(one if one == TRAFFIC else f"`{one}`" for one in row.labels)
        lines.append(f"| `{row.name}` | {row.kind} | {words} | {row.meaning} |\n")
    return "".join(lines)


def _wrapped(words: Sequence[str]) -> str:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 118:
            lines.append("")
        lines[-1] += f"{word}, " if word != words[-1] else f"{word}."
    return "".join(f"{line.rstrip()}\n" for line in lines)
