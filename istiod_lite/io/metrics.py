"""The control plane's metrics, named as Istio's dashboards expect them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One registry a process; ``_total`` is appended by the exposition."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.pushes = Counter(
            "pilot_xds_pushes", "Responses sent for changes.", ["type"], registry=registry
        )
        self.rejects = Counter(
            "pilot_total_xds_rejects", "Responses refused by clients.", ["type"], registry=registry
        )
        self.clients = Gauge("pilot_xds", "Connected clients.", ["version"], registry=registry)
        self.services = Gauge("pilot_services", "Services of the mesh.", registry=registry)
        self.workloads = Gauge(
            "ambient_istiod_workloads", "Workloads of the mesh.", registry=registry
        )
        self.policies = Gauge(
            "ambient_istiod_authorizations", "L4 policies of the mesh.", registry=registry
        )
        self.rejected_configs = Gauge(
            "pilot_total_rejected_configs",
            "Objects about which there is a remark.",
            registry=registry,
        )
        self.debounce = Histogram(
            "pilot_debounce_time",
            "Seconds from the first change to its push.",
            buckets=(0.01, 0.1, 0.5, 1, 3, 5, 10, 20, 30),
            registry=registry,
        )
        self.index_seconds = Histogram(
            "pilot_pushcontext_init_seconds",
            "Seconds to translate and encode what changed.",
            buckets=(0.001, 0.01, 0.1, 0.5, 1, 3, 5),
            registry=registry,
        )
        self.csr = Counter(
            "citadel_server_csr_count", "Certificate requests received.", registry=registry
        )
        self.csr_refused = Counter(
            "citadel_server_authentication_failure_count",
            "Certificate requests of callers that may not make them.",
            registry=registry,
        )
        self.csr_failed = Counter(
            "citadel_server_csr_sign_err_count",
            "Certificate requests that could not be signed.",
            ["error"],
            registry=registry,
        )
        self.issued = Counter(
            "citadel_server_success_cert_issuance_count", "Certificates issued.", registry=registry
        )
        self.root_expiry = Gauge(
            "citadel_server_root_cert_expiry_timestamp",
            "When the root certificate ends, Unix time.",
            registry=registry,
        )
