"""A certificate as the CA answered it, checked before anybody uses it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from ambient.identity.core.damaged import DAMAGED

MAX_CHAIN = 20
"""Certificates in one answer, roots included; a rotation has a handful."""


class SvidError(MeshError):
    """The CA's answer is not the certificate that we asked for."""


class Svid(msgspec.Struct, frozen=True, eq=False):
    """An identity with what proves it.

    ``certificate_chain_pem`` is the leaf and its intermediates, ``roots_pem`` what peers are
    checked against (one or many). Times are seconds since the epoch.
    """

    identity: Identity
    certificate_chain_pem: bytes
    private_key_pem: bytes
    roots_pem: bytes
    not_before_s: float
    not_after_s: float
    serial: int = 0

    def __repr__(self) -> str:  # never the key
        return f"Svid({self.identity}, serial={self.serial:x}, not_after_s={self.not_after_s:.0f})"


def parse_svid(identity: Identity, private_key_pem: bytes, answer: Sequence[str]) -> Svid:
    """Check the CA's answer: leaf, intermediates, and in the last element every root.

    Raises SvidError where the leaf is for another identity or key, or does not lead to a root.
    """
    certificates = [_load(element) for element in answer]
    if len(certificates) < 2 or not all(certificates):
        raise SvidError("no root certificate present in the CA's answer")
    roots = certificates.pop()
    chain = [certificate for element in certificates for certificate in element]
    if len(chain) + len(roots) > MAX_CHAIN:
        raise SvidError(f"the CA answered with more than {MAX_CHAIN} certificates")
    try:
        return _checked(identity, private_key_pem, chain, roots)
    except DAMAGED as error:
        raise SvidError(f"the certificate for {identity} cannot be used: {error}") from None


def _checked(
    identity: Identity,
    private_key_pem: bytes,
    chain: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
) -> Svid:
    leaf = chain[0]
    _check_leaf(leaf, identity, private_key_pem)
    _check_path(chain, roots)
    return Svid(
        identity=identity,
        certificate_chain_pem=b"".join(c.public_bytes(Encoding.PEM) for c in chain),
        private_key_pem=private_key_pem,
        roots_pem=b"".join(c.public_bytes(Encoding.PEM) for c in roots),
        not_before_s=leaf.not_valid_before_utc.timestamp(),
        not_after_s=leaf.not_valid_after_utc.timestamp(),
        serial=leaf.serial_number,
    )


def certificate_identity(certificate: x509.Certificate) -> Identity:
    """The one SPIFFE id of a certificate. Raises SvidError where it has none or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    if len(uris) != 1:
        raise SvidError(f"the certificate has {len(uris)} URI names; a SPIFFE certificate has one")
    try:
        return Identity.parse(uris[0])
    except ValueError as err:
        raise SvidError(f"the certificate's name {err}") from None


def _load(element: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(element.encode())
    except DAMAGED as err:
        raise SvidError(f"the CA's answer is not a PEM certificate: {err}") from None


def _check_leaf(leaf: x509.Certificate, identity: Identity, private_key_pem: bytes) -> None:
    found = certificate_identity(leaf)
    if found != identity:
        raise SvidError(
            f"asked the CA for {identity}, got a certificate for {found}",
            hint="may this proxy's service account ask for identities of its node?",
        )
    key = load_pem_private_key(private_key_pem, None).public_key()
    ours, theirs = (
        k.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for k in (key, leaf.public_key())
    )
    if ours != theirs:
        raise SvidError(f"the certificate for {identity} is for another key than ours")


def _check_path(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> None:
    """Each certificate is signed by the next one, the last by a root (or is one)."""
    for certificate, issuer in pairwise(chain):
        if not _signed_by(certificate, issuer):
            raise SvidError(f"the CA's chain is broken at {certificate.subject.rfc4514_string()!r}")
    last = chain[-1]
    if last not in roots and not any(_signed_by(last, root) for root in roots):
        raise SvidError("the certificate is not signed by any of the roots that came with it")


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*DAMAGED, TypeError, InvalidSignature):
        return False
    return True
