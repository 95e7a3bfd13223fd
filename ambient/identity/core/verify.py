"""Who is the peer? Read from the certificate that the TLS handshake has already verified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity


class PeerIdentityError(MeshError):
    """The peer's certificate names nobody, several, or somebody else than we dialled."""


def peer_identity(certificate: Mapping[str, Any] | None) -> Identity:
    """The peer's SPIFFE id, from what ``SSLSocket.getpeercert()`` answers.

    Raises PeerIdentityError unless there is exactly one URI name and it is a SPIFFE id.
    """
    if not certificate:
        raise PeerIdentityError("the peer showed no certificate")
    names = certificate.get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    if len(uris) != 1:
        raise PeerIdentityError(f"the peer's certificate has {len(uris)} URI names instead of one")
    try:
        return Identity.parse(uris[0])
    except ValueError as err:
        raise PeerIdentityError(f"the peer's certificate: {err}") from None
