"""One record for each connection, with the field names and the order of Istio's access log.

Only this file knows the spelling; ztunnel src/proxy/metrics.rs is the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity
from ambient.telemetry.core.event_names import Event


class Direction(StrEnum):
    """Seen from the application in the pod."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


DRAINED = "connection closed due to connection drain"
"""``error`` of a connection that a drain cut."""
POLICY_CHANGED = "connection closed due to policy change"
"""``error`` of a connection that a new policy cut."""


@dataclass(slots=True)
class Endpoint:
    """One side of a connection; empty strings and None are left out of the log."""

    address: HostPort | None = None
    workload: str = ""
    namespace: str = ""
    identity: Identity | None = None
    """Only set where mutual TLS proved it."""
    cluster: str = ""


@dataclass(slots=True, kw_only=True)
class AccessRecord:
    """What is known about a connection when it ends.

    ``bytes_sent`` and ``bytes_received`` count from the local application's side: outbound, sent is
    client to server; inbound, sent is server to client.
    """

    direction: Direction
    source: Endpoint
    destination: Endpoint
    hbone_address: str = ""
    """The authority of the CONNECT request."""
    service: str = ""
    """Hostname of the service that the client meant."""
    bytes_sent: int = 0
    bytes_received: int = 0
    duration_s: float = 0.0
    error: str = ""

    def fields(self) -> dict[str, str | int]:
        """Every known field by its name in the log, in the order of the log."""
        known = self._parties()
        known["bytes_sent"] = self.bytes_sent
        known["bytes_recv"] = self.bytes_received
        known["duration"] = f"{int(self.duration_s * 1000)}ms"
        if self.error:
            known["error"] = self.error
        return known

    def opened_fields(self) -> dict[str, str | int]:
        """As ``fields``, at a moment when there are no counts yet."""
        return self._parties()

    def refused_fields(self) -> dict[str, str | int]:
        """What an early refusal says: only addresses and the error."""
        known = {
            "src.addr": _text(self.source.address),
            "dst.addr": _text(self.destination.address),
            "direction": str(self.direction),
            "error": self.error,
        }
        return {name: value for name, value in known.items() if value}

    @property
    def level(self) -> str:
        """``error`` for a connection that failed, else ``info``."""
        return "error" if self.error else "info"

    @property
    def event(self) -> Event:
        """The message of the log line at the end of a connection."""
        return Event.CONN_CLOSED

    def _parties(self) -> dict[str, str | int]:
        source, destination = self.source, self.destination
        known: dict[str, str | int] = {}
        if source.address is not None:
            known["src.addr"] = str(source.address)
        known |= _who("src", source.workload, source.namespace, source.identity, source.cluster)
        if destination.address is not None:
            known["dst.addr"] = str(destination.address)
        if self.hbone_address:
            known["dst.hbone_addr"] = self.hbone_address
        if self.service:
            known["dst.service"] = self.service
        known |= _who(
            *("dst", destination.workload, destination.namespace),
            *(destination.identity, destination.cluster),
        )
        known["direction"] = self.direction.value
        return known


@lru_cache(1024)
def _who(
    end: str, workload: str, namespace: str, identity: Identity | None, cluster: str
) -> Mapping[str, str]:
    """What many connections of a workload have in common."""
    known = {
        f"{end}.workload": workload,
        f"{end}.namespace": namespace,
        f"{end}.identity": _text(identity),
        f"{end}.cluster": cluster,
    }
    return {name: value for name, value in known.items() if value}


def _text(value: object) -> str:
    return "" if value is None else str(value)
