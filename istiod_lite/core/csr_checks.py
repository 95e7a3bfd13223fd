"""May this certificate request be signed? Every way in which it may not has a name."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from ambient.api.spiffe import Identity

MAX_CSR_BYTES: Final = 16 * 1024
"""An RSA 4096 request with a SAN has under 2 KiB."""
RSA_BITS: Final = range(2048, 4097)
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")


class CsrFault(StrEnum):
    """What was wrong; the label of the metric that counts refusals."""

    UNREADABLE = "unreadable"
    BAD_SIGNATURE = "bad_signature"
    WEAK_KEY = "weak_key"
    SEVERAL_NAMES = "several_names"
    FOREIGN_NAME = "foreign_name"
    AUTHORITY = "authority"


class CsrError(Exception):
    """The request cannot be signed; the text may go to the caller."""

    def __init__(self, fault: CsrFault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def checked_key(csr_pem: str, identity: Identity) -> CertificatePublicKeyTypes:
    """The key that the requester has proved to hold. Raises CsrError.

    Nothing but the key is taken from a request. One that asks for somebody else's name or for the
    right to sign is refused all the same: whoever sends it expects to get that.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise CsrError(CsrFault.UNREADABLE, f"the request has more than {MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        # The size first: checking a signature with a huge key is slow.
        _check_key(key)
        valid = csr.is_signature_valid
        extensions = csr.extensions
    except (ValueError, UnsupportedAlgorithm, InvalidSignature, TypeError, x509.DuplicateExtension):
        text = "this is no certificate request in PEM"
        raise CsrError(CsrFault.UNREADABLE, text) from None
    if not valid:
        raise CsrError(CsrFault.BAD_SIGNATURE, "the request is not signed with its own key")
    for extension in extensions:
        _check_extension(extension.value, identity)
    return key


def _check_key(key: object) -> None:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return
        case rsa.RSAPublicKey() if key.key_size in RSA_BITS:
            return
        case _:
            text = "the key is neither P-256, P-384, P-521 nor RSA of 2048 to 4096 bits"
            raise CsrError(CsrFault.WEAK_KEY, text)


def _check_extension(value: x509.ExtensionType, identity: Identity) -> None:
    match value:
        case x509.SubjectAlternativeName():
            _check_names(list(value), identity)
        case x509.BasicConstraints() if value.ca:
            raise CsrError(CsrFault.AUTHORITY, "the request asks to be a certificate authority")
        case x509.KeyUsage() if value.key_cert_sign or value.crl_sign:
            raise CsrError(CsrFault.AUTHORITY, "the request asks for the right to sign")
        case _:
            return


def _check_names(names: list[x509.GeneralName], identity: Identity) -> None:
    if len(names) > 1:
        text = f"the request has {len(names)} names (SAN); one is allowed: {identity}"
        raise CsrError(CsrFault.SEVERAL_NAMES, text)
    for name in names:
        if not isinstance(name, x509.UniformResourceIdentifier) or name.value != str(identity):
            asked = str(name.value)[:200]
            text = f"the request is for {asked!r}, but the caller may only have {identity}"
            raise CsrError(CsrFault.FOREIGN_NAME, text)
