"""The authority that signs now; it may be replaced at any time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core.certificates import Authority
from istiod_lite.io.metrics import Metrics

log = get_logger("ca")


class Issuer:
    """Holds it, and tells those who hand out its roots. Read from any thread, set in trio."""

    def __init__(self, authority: Authority, metrics: Metrics) -> None:
        self.authority = authority
        self.changed: list[Callable[[], None]] = []
        """Called after a change, in trio."""
        metrics.watch_expiry("root_cert", lambda: self.authority.root_ends)
        metrics.watch_expiry("cert_chain", lambda: self.authority.ends)

    @property
    def roots_pem(self) -> str:
        """What the mesh has to trust."""
        return self.authority.roots_pem

    @property
    def crl_pem(self) -> str:
        """Certificates that must not be trusted any more; empty without a CRL."""
        return self.authority.crl_pem

    def adopt(self, authority: Authority) -> None:
        """Sign with this one from now on."""
        if authority.same_as(self.authority):
            return
        self.authority = authority
        log.info(
            Event.CA_CHANGED,
            signer=authority.certificate.subject.rfc4514_string(),
            serial=f"{authority.certificate.serial_number:x}",
            roots=len(authority.roots),
            until=authority.ends.isoformat(),
            days_left=(authority.ends - datetime.now(UTC)).days,
        )
        for tell in self.changed:
            tell()
