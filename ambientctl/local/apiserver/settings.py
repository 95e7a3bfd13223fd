"""Every knob of the embedded API server."""

from __future__ import annotations

import secrets

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor decides about the API server."""

    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    """DNS names and IP addresses of the serving certificate, besides the in-cluster names."""
    service_range: str = "10.96.0.0/16"
    service_address: str = "10.96.0.1"
    """Cluster address of the service ``default/kubernetes``; must lie in the range."""
    endpoints: tuple[str, ...] = ()
    """Where the API server really listens, for the EndpointSlice of ``default/kubernetes``."""
    endpoint_port: int = 443
    issuer: str = "https://kubernetes.default.svc.cluster.local"
    """Issuer of service account tokens, and their audience when none is asked for."""
    admin_token: str = msgspec.field(default_factory=lambda: secrets.token_urlsafe(32))
    """Bearer token of the cluster administrator; made anew for every mesh."""
