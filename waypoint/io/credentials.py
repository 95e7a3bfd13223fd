"""What ``credentialName`` stands for, as the control plane has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import trio
from cryptography import x509

from ambient.api.credential import Credential, believed, shown
from ambient.api.errors import MeshError
from ambient.identity.core.damaged import DAMAGED
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ambient.xds.core.wire import BadResource
from waypoint.core.tls_settings import TlsSettings
from waypoint.io.tls_material import NO_MATERIAL, TlsMaterial, check

FIRST_WAIT_S: Final = 2.0
"""A rule may come a moment before the control plane has read what it names."""
NOT_SUPPLIED: Final = "TLS error: Secret is not supplied by SDS"
"""Envoy's words."""

log = get_logger("credentials")


class Told(NamedTuple):
    """A credential with its certificates."""

    credential: Credential
    certificates: tuple[x509.Certificate, ...]


class Credentials:
    """By resource name. What cannot be used is refused; what was there before then stays."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}
        self._news = trio.Event()

    def apply(
        self, changed: Mapping[str, object], removed: Iterable[str]
    ) -> tuple[BadResource, ...]:
        """Take over an update; those that cannot be used."""
        refused = []
        for name, one in changed.items():
            if not isinstance(one, Credential):
                continue
            try:
                self._told[name] = Told(one, _certificates(one))
            except (*DAMAGED, OSError) as error:
                refused.append(BadResource("secret", name, str(error), name=name))
                continue
            if one.empty:
                log.warning(Event.CREDENTIAL_ABSENT, name=name, effect="no connection is made")
            else:
                log.info(Event.CREDENTIAL_TAKEN, name=name)
        for name in removed:
            self._told.pop(name, None)
        self._news.set()
        self._news = trio.Event()
        return tuple(refused)

    async def material(self, settings: TlsSettings) -> TlsMaterial:
        """What these settings use now. Raises MeshError where that is not supplied."""
        if not settings.credential:
            return NO_MATERIAL
        pair = Credential("")
        if settings.mutual:
            pair = await self._one(shown(settings.credential))
        roots = await self._roots(settings.credential.split(",")) if settings.verify else ()
        ca, crl = (b"\n".join(parts) for parts in zip(*roots, strict=True)) if roots else (b"", b"")
        return TlsMaterial(pair.certificate_pem, pair.private_key_pem, ca, crl.strip())

    async def _roots(self, names: list[str]) -> list[tuple[bytes, bytes]]:
        """Authorities and revocation lists of those that are there; one has to be."""
        found = []
        for name in names:
            with suppress(MeshError):
                one = await self._one(believed(name))
                found.append((one.ca_pem, one.crl_pem))
        if not found:
            raise MeshError(NOT_SUPPLIED)
        return found

    async def _one(self, name: str) -> Credential:
        with trio.move_on_after(FIRST_WAIT_S):
            while name not in self._told:
                await self._news.wait()
        told = self._told.get(name)
        if told is None or told.credential.empty:
            raise MeshError(NOT_SUPPLIED)
        return told.credential

    def page(self) -> list[dict[str, Any]]:
        """For ``/config_dump``: never a key."""
        return [
            {
                "name": name,
                "state": "absent" if told.credential.empty else "supplied",
                "kind": "certificate" if told.credential.certificate_pem else "authorities",
                "certificates": [_shown(one) for one in told.certificates],
                "private_key": "[redacted]" if told.credential.private_key_pem else "",
                "crl": bool(told.credential.crl_pem),
            }
            for name, told in sorted(self._told.items())
        ]


def _certificates(one: Credential) -> tuple[x509.Certificate, ...]:
    """Raises ValueError, or ssl.SSLError, where it is of no use."""
    check(TlsMaterial(one.certificate_pem, one.private_key_pem, one.ca_pem, one.crl_pem))
    pem = one.certificate_pem or one.ca_pem
    return tuple(x509.load_pem_x509_certificates(pem)) if pem else ()


def _shown(one: x509.Certificate) -> dict[str, Any]:
    return {
        "subject": one.subject.rfc4514_string(),
        "serial": f"{one.serial_number:x}",
        "valid_from": one.not_valid_before_utc.timestamp(),
        "expires": one.not_valid_after_utc.timestamp(),
    }
