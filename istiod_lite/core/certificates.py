"""The certificate authority: what it signs and what it refuses. Keys never leave this object."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity

DEFAULT_TTL: Final = timedelta(hours=24)
"""Istio: DEFAULT_WORKLOAD_CERT_TTL."""
MAX_TTL: Final = timedelta(days=90)
"""Istio: MAX_WORKLOAD_CERT_TTL."""
BACKDATED: Final = timedelta(minutes=2)
"""Clocks of nodes differ a little (Istio: ClockSkewGracePeriod)."""
ROOT_TTL: Final = timedelta(days=3650)
SERVING_TTL: Final = timedelta(days=90)
MAX_CSR_BYTES: Final = 16 * 1024
"""An RSA 4096 request with a SAN has under 2 KiB."""
RSA_BITS: Final = range(2048, 4097)
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class CsrError(Exception):
    """The request cannot be signed; the text may go to the caller."""


class TtlError(Exception):
    """The lifetime asked for is longer than allowed."""


class Authority:
    """A signing certificate with its key, and the roots that peers are told to trust."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes, roots_pem: bytes) -> None:
        """Raises MeshError that never contains the key."""
        try:
            self.certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, password=None)
            x509.load_pem_x509_certificates(roots_pem)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _unusable("it holds no PEM certificate and key") from None
        if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            raise _unusable("its key is neither EC nor RSA")
        if key.public_key() != self.certificate.public_key():
            raise _unusable("its key does not belong to its certificate")
        self._key: PrivateKey = key
        self.roots_pem = roots_pem.decode().strip() + "\n"

    def issue(
        self, csr_pem: str, identity: Identity, ttl_s: int, *, now: datetime, serial: int
    ) -> list[str]:
        """A workload's chain: the leaf, then the whole root bundle as the last element.

        Only the key of the request counts; names and extensions that it asks for are ignored.
        Raises CsrError or TtlError.
        """
        public_key = _requested_key(csr_pem)
        ttl = timedelta(seconds=ttl_s) if ttl_s > 0 else DEFAULT_TTL
        if ttl > MAX_TTL:
            raise TtlError(f"{ttl_s} s are longer than {int(MAX_TTL.total_seconds())} s")
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
        leaf = self._leaf(public_key, san, ttl, now=now, serial=serial)
        return [leaf, self.roots_pem]

    def serving(
        self, names: list[str], key: ec.EllipticCurvePrivateKey, *, now: datetime, serial: int
    ) -> str:
        """Our own server certificate chain, as PEM."""
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        leaf = self._leaf(key.public_key(), san, SERVING_TTL, now=now, serial=serial)
        return leaf + self.roots_pem

    def _leaf(
        self,
        public_key: CertificatePublicKeyTypes,
        san: x509.SubjectAlternativeName,
        ttl: timedelta,
        *,
        now: datetime,
        serial: int,
    ) -> str:
        until = min(now + ttl, self.certificate.not_valid_after_utc)
        if until <= now:
            raise _unusable("it has expired")
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(now - BACKDATED)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            # RFC 5280, section 4.2.1.6: critical, because the subject is empty.
            .add_extension(san, critical=True)
            .add_extension(_authority_key(self.certificate), critical=False)
        )
        return _pem(builder.sign(self._key, hashes.SHA256()))


def self_signed(
    key: ec.EllipticCurvePrivateKey, trust_domain: str, *, now: datetime, serial: int
) -> bytes:
    """A root certificate as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + ROOT_TTL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(key_id, critical=False)
    )
    return _pem(builder.sign(key, hashes.SHA256())).encode()


def key_pem(key: PrivateKey) -> bytes:
    """A private key as PEM, for the Secret."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _requested_key(csr_pem: str) -> CertificatePublicKeyTypes:
    """The key that the requester has proved to hold. Raises CsrError."""
    if len(csr_pem) > MAX_CSR_BYTES:
        raise CsrError(f"the request has more than {MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        # The size first: checking a signature with a huge key is slow.
        _check_key(key)
        valid = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature, TypeError):
        raise CsrError("this is no certificate request in PEM") from None
    if not valid:
        raise CsrError("the request is not signed with its own key")
    return key


def _check_key(key: object) -> None:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return
        case rsa.RSAPublicKey() if key.key_size in RSA_BITS:
            return
        case _:
            raise CsrError("the key is neither P-256, P-384, P-521 nor RSA of 2048 to 4096 bits")


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _unusable(reason: str) -> MeshError:
    return MeshError(
        f"the signing certificate cannot be used: {reason}",
        hint="correct or delete Secret istio-ca-secret; deleting it makes a new root",
    )
