"""``tls`` of a DestinationRule: TLS towards endpoints, inside the mesh's tunnel or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from waypoint.core.objects import Json, UnusableError, string, strings

PLAIN_MODES: Final = ("", "DISABLE", "ISTIO_MUTUAL")
"""The mesh's tunnel is mutual TLS already."""
SYSTEM: Final = "system"
BLOCKED: Final = "BLOCKED"
"""A mode of our own: TLS is asked for in a way that cannot be, so nobody may be reached."""


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
    """Several, by commas, where their authorities are believed together."""
    mutual: bool = False


def read_tls(raw: Json | None) -> TlsSettings | None:
    """None where no TLS is asked for. Raises UnusableError."""
    mode = string((raw or {}).get("mode"), "tls.mode")
    if raw is None or mode in PLAIN_MODES:
        return None
    if mode == BLOCKED:
        raise UnusableError("tls", str(raw.get("reason")))
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


def blocked(reason: str) -> Json:
    """TLS that nobody can speak: connections fail with the reason."""
    return {"mode": BLOCKED, "reason": reason}


def proves(certificate: Mapping[str, Any] | None, wanted: Iterable[str]) -> bool:
    """Does a certificate, as ``ssl.getpeercert`` gives it, belong to one of ``wanted``: names of
    hosts, addresses or URIs? A wildcard in the certificate stands for one label (RFC 9525, section
    6.3); URIs are compared as they are (section 6.5)."""
    shown = _alternatives(certificate)
    uris = {name for kind, name in shown if kind == "URI"}
    hosts = {name.lower() for kind, name in shown if kind in ("DNS", "IP Address")}
    for one in wanted:
        if "://" in one:
            if one in uris:
                return True
            continue
        name = one.lower()
        _, dot, rest = name.partition(".")
        if name in hosts or (dot and f"*.{rest}" in hosts):
            return True
    return False


def names_of(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The subject alternative names of a certificate as ``ssl.getpeercert`` gives it."""
    return tuple(name for _, name in _alternatives(certificate))


def _alternatives(certificate: Mapping[str, Any] | None) -> Iterable[tuple[str, str]]:
    """Kind and value of each."""
    return tuple((certificate or {}).get("subjectAltName", ()))
