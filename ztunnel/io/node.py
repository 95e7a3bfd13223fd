"""What every pod's proxy on this node shares, and what one of them has of its own."""

from __future__ import annotations

from dataclasses import dataclass

from ambient.hbone.io.pool import Pool
from ambient.hbone.io.relay import Relay
from ambient.identity.io.cert_store import CertStore
from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import KeepAlive, ListenOptions
from ambient.telemetry.io.metrics_http import TrafficMetrics
from ztunnel.io.connections import Connections
from ztunnel.io.mesh_view import MeshView
from ztunnel.settings import Settings


@dataclass(frozen=True, slots=True)
class Node:
    """One per process."""

    settings: Settings
    view: MeshView
    certs: CertStore
    relay: Relay
    connections: Connections
    metrics: TrafficMetrics

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
            mark=self.settings.packet_mark,
            reuse_port=self.settings.inpod_port_reuse,
            transparent=self.settings.enable_orig_src is not False,
        )


@dataclass(frozen=True, slots=True)
class PodParts:
    """One per pod."""

    info: Add
    netns: Netns
    pool: Pool
