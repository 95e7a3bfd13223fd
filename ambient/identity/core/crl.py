"""Certificate revocation lists: which certificates of a chain does their own issuer disown?

A list speaks only for the issuer that signed it, so its signature is checked against the issuer in
the peer's verified chain. An issuer without a list has revoked nothing, and a list's own expiry is
ignored, as in ztunnel (src/tls/crl.rs): a late list must not stop the mesh.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ambient.api.errors import MeshError
from ambient.identity.core.damaged import DAMAGED
from ambient.identity.core.verify import PeerIdentityError

MAX_BYTES: Final = 64 << 20
"""Of the file; a list of a million entries has about 40 MB."""
REVOKED: Final = "peer certificate revoked by CRL"

_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


class CrlError(MeshError):
    """The file does not hold revocation lists."""


class RevokedError(PeerIdentityError):
    """The peer shows a certificate that was revoked."""


class Revocation(Protocol):
    """Judges chains when they are shown, and again whenever the lists change."""

    def admit(
        self, chain: Sequence[bytes], reporter: str, cut: Callable[[], None]
    ) -> Callable[[], None]:
        """Take ``chain`` (DER, leaf first, root last) into the books; ``cut`` is called when it is
        revoked later. Answers how to leave the books. Raises RevokedError.
        """


class RevocationLists:
    """What one file says; empty: nothing is revoked."""

    def __init__(self, lists: Sequence[x509.CertificateRevocationList] = ()) -> None:
        self._lists = tuple(lists)
        self._by_issuer: dict[bytes, list[x509.CertificateRevocationList]] = {}
        for one in self._lists:
            self._by_issuer.setdefault(one.issuer.public_bytes(), []).append(one)
        self._signed: dict[tuple[int, bytes], bool] = {}

    @property
    def entries(self) -> int:
        """Revoked certificates in all lists."""
        return sum(len(one) for one in self._lists)

    def revoked(self, chain: Sequence[bytes]) -> int | None:
        """The serial number of the first certificate in ``chain`` that its issuer has revoked.

        Raises PeerIdentityError where OpenSSL took a certificate that cannot be read here.
        """
        if not self._lists:
            return None
        try:
            certificates = [x509.load_der_x509_certificate(der) for der in chain]
        except DAMAGED as error:
            raise PeerIdentityError(f"the peer's chain cannot be compared: {error}") from None
        for certificate, issuer in pairwise(certificates):
            for one in self._by_issuer.get(issuer.subject.public_bytes(), ()):
                found = one.get_revoked_certificate_by_serial_number(certificate.serial_number)
                if found is not None and self._is_signed(one, issuer):
                    return certificate.serial_number
        return None

    def _is_signed(self, one: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
        """Two issuers may share a name while a root is being replaced; the key tells them apart."""
        try:
            key = issuer.public_key()
        except DAMAGED:
            return False
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        known = self._signed.get((id(one), spki))
        if known is None:
            try:
                known = one.is_signature_valid(key)  # type: ignore[arg-type]
            except (*DAMAGED, TypeError):
                known = False
            self._signed[id(one), spki] = known
        return known


def parse_lists(data: bytes) -> RevocationLists:
    """Read many lists in PEM, or one in DER; nothing but white space is no list.

    Raises CrlError.
    """
    if len(data) > MAX_BYTES:
        raise CrlError(f"it has more than {MAX_BYTES >> 20} MB")
    try:
        if data[:1] == b"\x30":  # a DER sequence
            return RevocationLists([x509.load_der_x509_crl(data)])
        blocks = _PEM.findall(data)
        if not blocks and data.strip():
            raise CrlError("it holds no X509 CRL in PEM or DER")
        return RevocationLists([x509.load_pem_x509_crl(block) for block in blocks])
    except DAMAGED as error:
        raise CrlError(f"it holds a damaged CRL: {error}") from None
