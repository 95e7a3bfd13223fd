"""What every pod's proxy on this node shares, and what one of them has of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ambient.api.spiffe import Identity
from ambient.hbone.io.pool import Pool, PoolSettings
from ambient.hbone.io.relay import Relay
from ambient.hbone.io.server import Drain
from ambient.identity.io.cert_store import CertStore
from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import KeepAlive, ListenOptions
from ambient.telemetry.io.metrics_http import TrafficMetrics
from ztunnel.io.connections import Connections
from ztunnel.io.demand import Demand
from ztunnel.io.dns_metrics import DnsMetrics
from ztunnel.io.mesh_view import MeshView
from ztunnel.io.name_metrics import NameMetrics
from ztunnel.io.pod_identity import PodIdentity
from ztunnel.io.resolver import Resolver
from ztunnel.settings import Settings


class IdentityUse:
    """Fetches the certificate of an identity for its first pod and drops it after its last."""

    def __init__(self, certs: CertStore) -> None:
        self._certs = certs
        self._users: Counter[Identity] = Counter()

    def take(self, identity: Identity) -> None:
        """One pod more speaks as ``identity``."""
        self._users[identity] += 1
        self._certs.prefetch(identity)

    def give_back(self, identity: Identity) -> None:
        """One pod less."""
        self._users[identity] -= 1
        if self._users[identity] <= 0:
            del self._users[identity]
            self._certs.forget(identity)


@dataclass(frozen=True, slots=True)
class Node:
    """One per process."""

    settings: Settings
    view: MeshView
    certs: CertStore
    identities: IdentityUse
    relay: Relay
    connections: Connections
    metrics: TrafficMetrics
    resolver: Resolver = field(default_factory=Resolver)
    demand: Demand | None = None
    """Set where the control plane tells only what is asked for."""
    dns_metrics: DnsMetrics = field(default_factory=DnsMetrics)
    name_metrics: NameMetrics = field(default_factory=NameMetrics)

    @property
    def pool_settings(self) -> PoolSettings:
        """For the tunnels that pods dial."""
        return PoolSettings(
            max_streams=self.settings.pool_max_streams_per_connection,
            idle_s=self.settings.pool_unused_release_timeout_s,
        )

    @property
    def keep_alive(self) -> KeepAlive | None:
        """For sockets that carry plain TCP; HBONE has its own pings."""
        settings = self.settings
        if not settings.keepalive_enabled:
            return None
        return KeepAlive(
            round(settings.keepalive_time_s),
            round(settings.keepalive_interval_s),
            settings.keepalive_retries,
        )

    @property
    def listen_options(self) -> ListenOptions:
        """For the listeners inside pods."""
        return ListenOptions(
            mark=self.settings.mark,
            reuse_port=self.settings.inpod_port_reuse,
            transparent=self.settings.enable_orig_src is not False,
        )


@dataclass(frozen=True, slots=True)
class PodParts:
    """One per pod."""

    info: Add
    netns: Netns
    pool: Pool
    """Tunnels that we dial."""
    drain: Drain
    """Tunnels that we accepted."""
    identity: PodIdentity
    """Who it is."""
