"""The control plane's metrics, named as Istio's dashboards expect them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.samples import Sample

from ambient.api.type_urls import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    CONFIG_TYPE,
    SECRET_TYPE,
    WORKLOAD_TYPE,
)
from ambient.telemetry.io.build import describe_process

PUSH_BUCKETS: Final = (0.01, 0.1, 0.5, 1, 3, 5, 10, 20, 30)
CONVERGENCE_BUCKETS: Final = (0.1, 0.5, 1, 3, 5, 10, 20, 30)
SIZE_BUCKETS: Final = (1, 1e4, 1e6, 4e6, 1e7, 4e7)
VERSION: Final = version("ambient-mesh")
SHORT_TYPES: Final = {
    ADDRESS_TYPE: "wds",
    WORKLOAD_TYPE: "workload",
    AUTHORIZATION_TYPE: "wads",
    CONFIG_TYPE: "config",
    SECRET_TYPE: "sds",
}


def short_type(type_url: str) -> str:
    """The label of a type; clients may not make up new ones, since every label costs memory."""
    return SHORT_TYPES.get(type_url, "unknown")


class PlainCounter(Counter):
    """A counter under the very name that istiod gives it: without ``_total``, which OpenMetrics
    asks of counters, so its type is unknown there.
    """

    _type = "unknown"

    def _child_samples(self) -> Iterable[Sample]:
        return (Sample("", {}, self._value.get(), None, None, None),)


class Metrics:
    """One registry a process; ``_total`` is appended to our own counters by the exposition."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        describe_process(self.registry, "pilot")
        self._add_xds()
        self._add_pipeline()
        self._add_index()
        self._add_clusters()
        self._add_authority()
        self._add_admission()

    def watch_expiry(self, name: str, ends: Callable[[], datetime]) -> None:
        """``citadel_server_<name>_expiry_{timestamp,seconds}``, read at every scrape."""
        stamp, left = (
            self._gauge(f"citadel_server_{name}_expiry_{unit}", f"When the {name} ends: {text}.")
            for unit, text in (("timestamp", "Unix time"), ("seconds", "seconds from now"))
        )
        stamp.set_function(lambda: ends().timestamp())
        left.set_function(lambda: (ends() - datetime.now(UTC)).total_seconds())

    def note_update(self, kind: str, gone: bool) -> None:
        """An object has come, changed or gone; labels as Istio has them."""
        match kind:
            case "Service":
                label = "svcdelete" if gone else "svc"
            case "EndpointSlice" | "Pod":
                label = "eds"
            case _:
                label = "config"
        self.updates.labels(label).inc()

    def note_push(self, names: frozenset[str], reason: str) -> None:
        """Proxies are told of these resources."""
        if names:
            self.triggers.labels(reason).inc()

    def _add_xds(self) -> None:
        self.pushes = self._counter("pilot_xds_pushes", "Responses sent for changes.", "type")
        self.rejects = self._counter(
            "pilot_total_xds_rejects", "Responses refused by clients.", "type"
        )
        self.expired_nonces = self._counter(
            "pilot_xds_expired_nonce", "Requests about a response that was not the last.", "type"
        )
        self.internal_errors = self._counter(
            "pilot_total_xds_internal_errors", "Streams that ended by a mistake of ours."
        )
        self.write_timeouts = self._counter(
            "pilot_xds_write_timeout", "Streams ended because the client did not read."
        )
        self.limited = self._counter(
            "ambient_istiod_xds_refused", "Streams refused or ended by a limit.", "limit"
        )
        self.clients = self._gauge("pilot_xds", "Connected clients.", "version")
        self.config_size = self._histogram(
            "pilot_xds_config_size_bytes", "Size of a response.", SIZE_BUCKETS, "type"
        )
        self.send_time = self._histogram(
            "pilot_xds_send_time", "Seconds until gRPC took a response.", PUSH_BUCKETS
        )
        info = self._gauge("pilot_info", "Always 1.", "version")
        info.labels(VERSION).set(1)
        begun = time.time()
        uptime = self._gauge("istiod_uptime_seconds", "Seconds since the start.")
        uptime.set_function(lambda: time.time() - begun)

    def _add_pipeline(self) -> None:
        self.updates = self._counter(
            "pilot_inbound_updates", "Objects that were new, changed or deleted.", "type"
        )
        self.triggers = self._counter("pilot_push_triggers", "Why proxies were told.", "type")
        self.debounce = self._histogram(
            "pilot_debounce_time", "Seconds from the first change to its push.", PUSH_BUCKETS
        )
        self.queue_time = self._histogram(
            "pilot_proxy_queue_time",
            "Seconds that a change waited for one client.",
            CONVERGENCE_BUCKETS,
        )
        self.convergence = self._histogram(
            "pilot_proxy_convergence_time",
            "Seconds from a change until a client was sent it.",
            CONVERGENCE_BUCKETS,
        )
        self.push_time = self._histogram(
            "pilot_xds_push_time", "Seconds to make a response.", PUSH_BUCKETS, "type"
        )
        self.index_seconds = self._histogram(
            "pilot_pushcontext_init_seconds",
            "Seconds to translate and encode what changed.",
            (0.001, 0.01, 0.1, 0.5, 1, 3, 5),
        )

    def _add_index(self) -> None:
        self.services = self._gauge("pilot_services", "Services of the mesh.")
        self.virtual_services = self._gauge("pilot_virt_services", "VirtualServices of the mesh.")
        self.startup = self._gauge(
            "startup_duration_seconds", "Seconds from the start until proxies were served."
        )
        self.workloads = self._gauge("ambient_istiod_workloads", "Workloads of the mesh.")
        self.policies = self._gauge("ambient_istiod_authorizations", "L4 policies of the mesh.")
        self.rejected_configs = self._gauge(
            "pilot_total_rejected_configs", "Objects about which there is a remark."
        )
        self.stale = self._gauge(
            "ambient_istiod_stale_seconds",
            "How long the API server has been away; 0 while it answers.",
        )

    def _add_clusters(self) -> None:
        self.managed_clusters = self._gauge(
            "istiod_managed_clusters", "Clusters of the mesh.", "cluster_type"
        )
        self.cluster_syncs = self._gauge(
            "istiod_remote_cluster_sync_status",
            "1 for what each other cluster is now.",
            "cluster",
            "status",
        )
        self.secret_events = self._counter(
            "remote_cluster_secret_events", "Changes of Secrets of other clusters.", "event"
        )
        self.cluster_timeouts = self._counter(
            "remote_cluster_sync_timeouts", "Clusters that we have stopped waiting for."
        )

    def _add_authority(self) -> None:
        self.csr = self._counter("citadel_server_csr_count", "Certificate requests received.")
        self.csr_refused = self._counter(
            "citadel_server_authentication_failure_count",
            "Certificate requests of callers that may not make them.",
        )
        self.csr_unreadable = self._counter(
            "citadel_server_csr_parsing_err_count", "Certificate requests that are none."
        )
        self.csr_failed = self._counter(
            "citadel_server_csr_sign_err_count",
            "Certificate requests that could not be signed.",
            "error",
        )
        self.csr_faults = self._counter(
            "ambient_istiod_csr_faults", "Certificate requests refused for what they ask.", "fault"
        )
        self.issued = self._counter(
            "citadel_server_success_cert_issuance_count", "Certificates issued."
        )

    def _add_admission(self) -> None:
        labels = ("group", "version", "resource")
        self.admitted = self._counter("galley_validation_passed", "Objects admitted.", *labels)
        self.not_admitted = self._counter(
            "galley_validation_failed", "Objects refused.", *labels, "reason"
        )
        self.admission_errors = self._counter(
            "galley_validation_http_error", "Calls that were no admission review.", "status"
        )
        self.webhook_updates = self._counter(
            "galley_validation_config_updates", "Writes of the webhook configuration."
        )
        self.webhook_update_errors = self._counter(
            "galley_validation_config_update_error",
            "Writes of the webhook configuration that failed.",
            "reason",
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        kind = Counter if name.startswith("ambient_") else PlainCounter
        return kind(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
