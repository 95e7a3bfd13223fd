"""One record for each connection, with the field names and the order of Istio's access log.

Only this file knows the spelling; ztunnel src/proxy/metrics.rs is the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
        return self._parties() | {
            "bytes_sent": self.bytes_sent,
            "bytes_recv": self.bytes_received,
            "duration": f"{int(self.duration_s * 1000)}ms",
            **({"error": self.error} if self.error else {}),
        }

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
        known = {
            "src.addr": _text(source.address),
            "src.workload": source.workload,
            "src.namespace": source.namespace,
            "src.identity": _text(source.identity),
            "src.cluster": source.cluster,
            "dst.addr": _text(destination.address),
            "dst.hbone_addr": self.hbone_address,
            "dst.service": self.service,
            "dst.workload": destination.workload,
            "dst.namespace": destination.namespace,
            "dst.identity": _text(destination.identity),
            "dst.cluster": destination.cluster,
            "direction": str(self.direction),
        }
        return {name: value for name, value in known.items() if value}


def _text(value: object) -> str:
    return "" if value is None else str(value)
