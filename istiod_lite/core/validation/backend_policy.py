"""BackendTLSPolicy and XBackendTrafficPolicy, as far as a schema cannot say it.

What is right for another controller is not refused; the status says what is not for us.
"""

from __future__ import annotations

from typing import Final

from istiod_lite.core.validation.gateway_api import session
from istiod_lite.core.validation.report import Field

TARGETS: Final = {"Service": "", "ServiceEntry": "networking.istio.io"}


def tls(root: Field) -> None:
    """BackendTLSPolicy: whom a waypoint believes."""
    spec = root["spec"]
    _targets(spec)
    validation = spec["validation"]
    validation["hostname"].required("name the server, for SNI and its certificate")
    refs, well_known = validation["caCertificateRefs"], validation["wellKnownCACertificates"]
    if refs.given and well_known.given:
        validation.wrong("has caCertificateRefs and wellKnownCACertificates", "keep one of them")
    elif not refs.given and not well_known.given:
        validation.wrong(
            "believes nobody",
            "name a ConfigMap with ca.crt, or wellKnownCACertificates: System",
        )
    for one in refs.items():
        one["name"].required("name the ConfigMap with ca.crt")
    for one in validation["subjectAltNames"].items():
        kind = one["type"].one_of(("Hostname", "URI"), required=True)
        one["uri" if kind == "URI" else "hostname"].required(f"say which {kind or 'name'}")


def traffic(root: Field) -> None:
    """XBackendTrafficPolicy: a budget of retries, and sessions."""
    spec = root["spec"]
    _targets(spec)
    constraint = spec["retryConstraint"]
    constraint["budget"]["percent"].integer(0, 100)
    constraint["budget"]["interval"].duration()
    constraint["minRetryRate"]["count"].integer(1, 1_000_000)
    constraint["minRetryRate"]["interval"].duration()
    session(spec["sessionPersistence"])


def _targets(spec: Field) -> None:
    """Other kinds may be another controller's; what is ours needs its group."""
    spec["targetRefs"].required("name the Service that is called")
    for one in spec["targetRefs"].items():
        one["name"].required("name the Service")
        group = TARGETS.get(one["kind"].text())
        if group is not None and one["group"].text() not in (group, group or "core"):
            text = f"{one['group'].text()!r} has no {one['kind'].text()}"
            one["group"].wrong(text, f"write {group!r}")
