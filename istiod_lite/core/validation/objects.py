"""The one question of the webhook, and of whoever checks files: what is wrong with this object?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from istiod_lite.core.validation import backend_policy, gateway_api, networking, security, telemetry
from istiod_lite.core.validation.report import Field, Report

Check = Callable[[Field], None]
TOP_LEVEL: Final = ("apiVersion", "kind", "metadata", "spec", "status")
ALWAYS_REJECT: Final = "internal.istio.io/webhook-always-reject"
"""The annotation of our own test whether the webhook is called."""

_SPECS: Final[Mapping[tuple[str, str], Check]] = {
    ("security.istio.io", "AuthorizationPolicy"): security.authorization_policy,
    ("security.istio.io", "PeerAuthentication"): security.peer_authentication,
    ("security.istio.io", "RequestAuthentication"): security.request_authentication,
    ("telemetry.istio.io", "Telemetry"): telemetry.telemetry,
    ("networking.istio.io", "EnvoyFilter"): telemetry.envoy_filter,
    ("networking.istio.io", "VirtualService"): networking.virtual_service,
    ("networking.istio.io", "DestinationRule"): networking.destination_rule,
    ("networking.istio.io", "ServiceEntry"): networking.service_entry,
    ("networking.istio.io", "WorkloadEntry"): networking.workload_entry,
    ("networking.istio.io", "WorkloadGroup"): networking.workload_group,
}
_ROOTS: Final[Mapping[tuple[str, str], Check]] = {
    ("gateway.networking.k8s.io", "Gateway"): gateway_api.gateway,
    ("gateway.networking.k8s.io", "HTTPRoute"): gateway_api.http_route,
    ("gateway.networking.k8s.io", "GRPCRoute"): gateway_api.grpc_route,
    ("gateway.networking.k8s.io", "TCPRoute"): gateway_api.stream_route,
    ("gateway.networking.k8s.io", "TLSRoute"): gateway_api.stream_route,
    ("gateway.networking.k8s.io", "ReferenceGrant"): gateway_api.reference_grant,
    ("gateway.networking.k8s.io", "BackendTLSPolicy"): backend_policy.tls,
    ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy"): backend_policy.traffic,
}
KINDS: Final = frozenset({*_SPECS, *_ROOTS})


def check(obj: Any) -> Report:
    """Everything that is wrong with an object; nothing for kinds that we do not read."""
    report = Report()
    root = Field(obj, "", report)
    group = root["apiVersion"].text().partition("/")[0]
    kind = (group, root["kind"].text())
    if kind not in KINDS:
        return report
    root.known(TOP_LEVEL)
    annotations = root["metadata"]["annotations"]
    if str(annotations[ALWAYS_REJECT].value).lower() == "true":
        annotations.wrong(f"{ALWAYS_REJECT} asks for this", "remove it")
    if kind in _SPECS:
        spec = root["spec"]
        _SPECS[kind](Field({} if spec.value is None else spec.value, spec.path, report))
    else:
        _ROOTS[kind](root)
    return report
