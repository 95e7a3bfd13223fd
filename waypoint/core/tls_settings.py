"""``tls`` of a DestinationRule: TLS towards endpoints, inside the mesh's tunnel or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from waypoint.core.objects import Json, UnusableError, string, strings

PLAIN_MODES: Final = ("", "DISABLE", "ISTIO_MUTUAL")
"""The mesh's tunnel is mutual TLS already."""
SYSTEM: Final = "system"


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Files are paths in the waypoint's pod; empty ``ca_file``: the system's certificates, unless
    ``credential`` names what to use instead of files."""

    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    crl_file: str = ""
    sni: str = ""
    names: tuple[str, ...] = ()
    """One of these has to be in the server's certificate; empty: the server name."""
    verify: bool = True
    credential: str = ""
    mutual: bool = False


def read_tls(raw: Json | None) -> TlsSettings | None:
    """None where no TLS is asked for. Raises UnusableError."""
    mode = string((raw or {}).get("mode"), "tls.mode")
    if raw is None or mode in PLAIN_MODES:
        return None
    if mode not in ("SIMPLE", "MUTUAL"):
        raise UnusableError("tls.mode", f"{mode!r} is unknown")
    credential = string(raw.get("credentialName"), "tls.credentialName")
    # As in Istio, a credential stands for all the files.
    given = {name: "" if credential else string(raw.get(name), f"tls.{name}") for name in _FILES}
    mutual = mode == "MUTUAL"
    if mutual and not credential and not (given["clientCertificate"] and given["privateKey"]):
        raise UnusableError("tls", "MUTUAL needs clientCertificate and privateKey")
    return TlsSettings(
        ca_file="" if given["caCertificates"] == SYSTEM else given["caCertificates"],
        certificate_file=given["clientCertificate"] if mutual else "",
        key_file=given["privateKey"] if mutual else "",
        crl_file=given["caCrl"],
        sni=string(raw.get("sni"), "tls.sni"),
        names=strings(raw.get("subjectAltNames"), "tls.subjectAltNames"),
        verify=raw.get("insecureSkipVerify") is not True,
        credential=credential,
        mutual=mutual,
    )


_FILES: Final = ("caCertificates", "clientCertificate", "privateKey", "caCrl")


def proves(shown: Iterable[str], wanted: Iterable[str]) -> bool:
    """Does a certificate with the names ``shown`` belong to one of ``wanted``? A wildcard in the
    certificate stands for one label (RFC 9525, section 6.3)."""
    names = {name.lower() for name in shown}
    for name in (one.lower() for one in wanted):
        _, dot, rest = name.partition(".")
        if name in names or (dot and f"*.{rest}" in names):
            return True
    return False


def names_of(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The subject alternative names of a certificate as ``ssl.getpeercert`` gives it."""
    found: Iterable[tuple[str, str]] = (certificate or {}).get("subjectAltName", ())
    return tuple(value for _, value in found)
