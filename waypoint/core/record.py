"""One record per request or connection: Istio's access log fields and metric labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ambient.api.address import parse_ip
from ambient.api.service import Service
from ambient.api.workload import Workload
from ambient.telemetry.core.metric_names import TrafficLabels
from waypoint.core.decision import Plan
from waypoint.core.dispatch import Destination
from waypoint.core.host import Target
from waypoint.core.message import Headers, Peer, Reply
from waypoint.core.trace_context import Trace

NO_FLAG = "-"
REPORTER = "waypoint"


class Record(msgspec.Struct, kw_only=True):
    """What is known of an exchange when it ends. Times in milliseconds, bytes of bodies.

    ``status`` 0 means that the client got none. ``method`` is empty for raw connections.
    """

    peer: Peer
    to: Destination
    method: str = ""
    path: str = ""
    """As the client sent it, normalised."""
    new_path: str = ""
    """What a rule made of it."""
    authority: str = ""
    request_id: str = ""
    user_agent: str = ""
    forwarded_for: str = ""
    grpc: bool = False
    protocol: str = ""
    status: int = 0
    flag: str = NO_FLAG
    details: str = ""
    cause: str = ""
    received: int = 0
    sent: int = 0
    duration_ms: float = 0.0
    upstream_ms: int | None = None
    begun_s: float = 0.0
    """Unix time."""
    request_headers: Headers | None = None
    response_headers: Headers | None = None
    response_trailers: Headers | None = None
    metadata: Mapping[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    sni: str = ""
    grpc_status: str = ""
    attempts: int = 0
    """How often an endpoint was looked for."""
    request_messages: int = 0
    response_messages: int = 0
    trace: Trace | None = None
    trace_id: str = ""
    decided: Plan | None = None
    target: Target | None = None

    def answered(self, reply: Reply) -> None:
        """Note an answer of our own."""
        self.status, self.details = reply.status, reply.details
        self.add_flag(reply.flag)

    def add_flag(self, flag: str) -> None:
        """One more response flag; empty and ``-`` are none."""
        if flag in ("", NO_FLAG):
            return
        self.flag = flag if self.flag == NO_FLAG else f"{self.flag},{flag}"

    @property
    def grpc_number(self) -> int | None:
        """The gRPC status of the response, if it has one."""
        return int(self.grpc_status) if self.grpc_status.isdigit() else None

    @property
    def direct_address(self) -> str:
        """The client's own address and port."""
        return _address(self.peer)

    @property
    def remote_address(self) -> str:
        """The client's address as x-forwarded-for says it; such an address has no port."""
        said = self.forwarded_for.rpartition(",")[2].strip()
        ip = parse_ip(said) if said else None
        return self.direct_address if ip is None else _address(Peer(None, ip, 0))

    @property
    def service(self) -> Service | None:
        """The service that the request was routed to, else the one that was called."""
        decided = self.decided
        if decided is not None and decided.upstream is not None:
            return decided.upstream.service
        return self.to.service

    def fields(self) -> dict[str, object]:
        """The access log's fields of this exchange alone; those without a value are left out."""
        known: dict[str, object] = {}
        if self.method:
            known["method"] = self.method
            if self.path:
                known["path"] = self.path
            known["protocol"] = self.protocol
            known["response_code"] = self.status
        known["response_flags"] = self.flag
        if self.details:
            known["response_code_details"] = self.details
        if self.cause:
            known["upstream_transport_failure_reason"] = self.cause
        known["bytes_received"] = self.received
        known["bytes_sent"] = self.sent
        known["duration"] = round(self.duration_ms)
        if self.upstream_ms is not None:
            known["upstream_service_time"] = self.upstream_ms
        for name, value in (
            ("x_forwarded_for", self.forwarded_for),
            ("user_agent", self.user_agent),
            ("request_id", self.request_id),
            ("authority", self.authority),
            ("grpc_status", self.grpc_status),
            ("trace_id", self.trace_id),
        ):
            if value:
                known[name] = value
        return known

    def standing_fields(self) -> dict[str, object]:
        """Those that exchanges of the same parties share (see ``parties``)."""
        decided = self.decided
        upstream = decided.upstream if decided is not None else None
        route = decided.route if decided is not None else None
        by = decided.verdict.by if decided is not None else None
        known: dict[str, object] = {
            "upstream_host": "" if self.target is None else str(self.target.address),
            "upstream_cluster": "" if upstream is None else upstream.cluster,
            "upstream_identity": self._upstream_identity(),
            "downstream_local_address": str(self.to.address),
            "downstream_remote_address": _address(self.peer),
            "downstream_identity": str(self.peer.identity or ""),
            "route_name": "" if route is None else route.name,
            "route_source": "" if route is None else route.source,
            "policy": "" if by is None else str(by),
            "audited": str(decided.verdict.audited or "") if decided is not None else "",
        }
        return {name: value for name, value in known.items() if value != ""}

    def parties(self) -> tuple[object, ...]:
        """Who takes part: objects that live as long as the configuration or the connection, to be
        compared by identity, and the rules that decided."""
        decided = self.decided
        if decided is None:
            return (self.peer, self.to, self.target, None, None, None, None)
        upstream, verdict = decided.upstream, decided.verdict
        backend = upstream.backend if upstream is not None else None
        service = upstream.service if upstream is not None else None
        by = (verdict.by, verdict.audited, upstream.port if upstream is not None else 0)
        return (self.peer, self.to, self.target, decided.route, backend, service, by)

    def _upstream_identity(self) -> str:
        proven = self.target is not None and self.target.hbone
        return str(self.target.workload.identity) if proven and self.target else ""

    def labels(self, source: Workload | None) -> TrafficLabels:
        """The traffic labels; ``source`` is the workload at the peer's address."""
        identity = self.peer.identity
        service = self.service
        target = self.target.workload if self.target is not None else None
        # Without a backend (a refusal, no route) there is the caller's connection only.
        secure = identity is not None and (target is None or bool(self._upstream_identity()))
        return TrafficLabels(
            reporter=REPORTER,
            source_workload=source.workload_name if source else "",
            source_canonical_service=source.canonical_name if source else "",
            source_canonical_revision=source.canonical_revision if source else "",
            source_workload_namespace=identity.namespace if identity else "",
            source_principal=str(identity or ""),
            source_app=source.canonical_name if source else "",
            source_version=source.canonical_revision if source else "",
            source_cluster=source.cluster_id if source else "",
            destination_service=service.hostname if service else "",
            destination_service_name=_service_name(service) if service else "",
            destination_service_namespace=service.namespace if service else "",
            destination_workload=target.workload_name if target else "",
            destination_canonical_service=target.canonical_name if target else "",
            destination_canonical_revision=target.canonical_revision if target else "",
            destination_workload_namespace=target.namespace if target else "",
            destination_principal=str(target.identity) if target and target.service_account else "",
            destination_app=target.canonical_name if target else "",
            destination_version=target.canonical_revision if target else "",
            destination_cluster=target.cluster_id if target else "",
            request_protocol="grpc" if self.grpc else "http" if self.method else "tcp",
            response_flags=self.flag,
            connection_security_policy="mutual_tls" if secure else "none",
        )


def _service_name(service: Service) -> str:
    """A Kubernetes Service's name; a ServiceEntry counts by its host (Istio)."""
    kubernetes = service.hostname.startswith(f"{service.name}.{service.namespace}.svc.")
    return service.name if kubernetes else service.hostname


def _address(peer: Peer) -> str:
    ip = str(peer.ip)
    return f"[{ip}]:{peer.port}" if ":" in ip else f"{ip}:{peer.port}"
