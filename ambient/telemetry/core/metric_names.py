"""Names, labels and buckets of every metric, as Istio's dashboards expect them.

Source: ztunnel src/proxy/metrics.rs. Counter names are given without the ``_total`` that the
exposition appends.
"""

from __future__ import annotations

from typing import Final, NamedTuple

UNKNOWN: Final = "unknown"
"""What a label says whose value is missing or empty."""

CONNECTIONS_OPENED: Final = "istio_tcp_connections_opened"
CONNECTIONS_CLOSED: Final = "istio_tcp_connections_closed"
CONNECTIONS_FAILED: Final = "istio_tcp_connections_failed"
RECEIVED_BYTES: Final = "istio_tcp_received_bytes"
"""Client to server, whoever reports."""
SENT_BYTES: Final = "istio_tcp_sent_bytes"
"""Server to client, whoever reports."""
SOCKETS_OPEN: Final = "istio_tcp_sockets_open"
CRL_REJECTIONS: Final = "istio_crl_policy_rejections"
DNS_REQUESTS: Final = "istio_dns_requests"
DNS_UPSTREAM_REQUESTS: Final = "istio_dns_upstream_requests"
DNS_UPSTREAM_FAILURES: Final = "istio_dns_upstream_failures"
DNS_UPSTREAM_SECONDS: Final = "istio_dns_upstream_request_duration_seconds"
ON_DEMAND_DNS: Final = "istio_on_demand_dns"
POLICY_DECISIONS: Final = "ambient_policy_decisions"
"""Ours: what a policy decided, by ``namespace/name`` and decision (``allow``, ``deny``)."""
DRY_RUN_DENIALS: Final = "ambient_policy_dry_run_denials"
"""Ours: what a dry-run policy would have refused, by ``namespace/name`` of the policy."""
XDS_TERMINATIONS: Final = "istio_xds_connection_terminations"
XDS_MESSAGES: Final = "istio_xds_message"
XDS_MESSAGE_BYTES: Final = "istio_xds_message_bytes"
BUILD: Final = "istio_build"
ACTIVE_PROXIES: Final = "workload_manager_active_proxy_count"
PENDING_PROXIES: Final = "workload_manager_pending_proxy_count"
PROXIES_STARTED: Final = "workload_manager_proxies_started"
PROXIES_STOPPED: Final = "workload_manager_proxies_stopped"
WORKERS: Final = "ztunnel_workers"
WORKER_RESTARTS: Final = "ztunnel_worker_restarts"
WAYPOINT_WORKERS: Final = "waypoint_workers"
WAYPOINT_WORKER_RESTARTS: Final = "waypoint_worker_restarts"

REQUESTS: Final = "istio_requests"
"""HTTP requests of a waypoint."""
REQUEST_MILLISECONDS: Final = "istio_request_duration_milliseconds"
REQUEST_BYTES: Final = "istio_request_bytes"
RESPONSE_BYTES: Final = "istio_response_bytes"
REQUEST_MESSAGES: Final = "istio_request_messages"
RESPONSE_MESSAGES: Final = "istio_response_messages"
"""Messages of gRPC calls."""

DNS_BUCKETS: Final = (0.0005, 0.001, 0.01, 0.1, 1.0, 5.0)
"""Seconds."""
DURATION_BUCKETS: Final = (
    *(0.5, 1, 5, 10, 25, 50, 100, 250, 500),
    *(1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000),
)
"""Milliseconds; Istio's bootstrap for ``istio_request_duration_milliseconds``."""
SIZE_BUCKETS: Final = (1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
"""Bytes."""

DNS_LABELS: Final = (
    "request_query_type",
    "request_protocol",
    "source_canonical_service",
    "source_canonical_revision",
)
ON_DEMAND_DNS_LABELS: Final = (
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "hostname",
)
REQUEST_LABELS: Final = ("response_code", "grpc_response_status")
"""What ``istio_requests_total`` has besides the traffic labels."""


class ResponseFlag:
    """Why a connection ended, in the label ``response_flags``."""

    FINE: Final = "-"
    DENY: Final = "DENY"
    CONNECT: Final = "CONNECT"
    TLS_FAILURE: Final = "TLS_FAILURE"
    NETWORK_POLICY: Final = "NETWORK_POLICY"
    IDENTITY_ERROR: Final = "IDENTITY_ERROR"
    CERT_REVOKED: Final = "CERT_REVOKED"


class TrafficLabels(NamedTuple):
    """The labels of the traffic metrics in upstream's order; empty values read ``unknown``."""

    reporter: str = ""
    source_workload: str = ""
    source_canonical_service: str = ""
    source_canonical_revision: str = ""
    source_workload_namespace: str = ""
    source_principal: str = ""
    source_app: str = ""
    source_version: str = ""
    source_cluster: str = ""
    destination_service: str = ""
    destination_service_namespace: str = ""
    destination_service_name: str = ""
    destination_workload: str = ""
    destination_canonical_service: str = ""
    destination_canonical_revision: str = ""
    destination_workload_namespace: str = ""
    destination_principal: str = ""
    destination_app: str = ""
    destination_version: str = ""
    destination_cluster: str = ""
    request_protocol: str = "tcp"
    response_flags: str = ResponseFlag.FINE
    connection_security_policy: str = ""
    source_region: str = ""
    source_zone: str = ""
    destination_region: str = ""
    destination_zone: str = ""

    def values(self) -> tuple[str, ...]:
        """The label values as they are exposed."""
        return tuple(value or UNKNOWN for value in self)


TRAFFIC_LABELS: Final = TrafficLabels._fields
