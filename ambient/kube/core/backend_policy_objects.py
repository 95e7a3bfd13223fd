"""Gateway API's policies of what a route leads to: BackendTLSPolicy and XBackendTrafficPolicy."""

from __future__ import annotations

import msgspec

from ambient.kube.core.objects import Camel, Metadata


class BackendTarget(Camel, frozen=True):
    """A Service or ServiceEntry of the policy's namespace, or the port of that name."""

    kind: str
    name: str
    group: str = ""
    section_name: str = ""


class CertificateReference(Camel, frozen=True):
    """Whose ``ca.crt`` is believed."""

    kind: str
    name: str
    group: str = ""


class BackendValidation(Camel, frozen=True):
    """How a server's certificate is checked, as far as it refers to something."""

    ca_certificate_refs: tuple[CertificateReference, ...] | None = msgspec.field(
        default=None, name="caCertificateRefs"
    )
    well_known: str = msgspec.field(default="", name="wellKnownCACertificates")


class BackendPolicySpec(Camel, frozen=True):
    target_refs: tuple[BackendTarget, ...] | None = None
    validation: BackendValidation = BackendValidation()


class BackendPolicy(Camel, frozen=True):
    """Either kind; what else it says is for the waypoint."""

    metadata: Metadata
    spec: BackendPolicySpec = BackendPolicySpec()
