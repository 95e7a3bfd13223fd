"""The certificate authority: what it signs. Keys never leave this object."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from istiod_lite.core.csr_checks import checked_key

DEFAULT_TTL: Final = timedelta(hours=24)
"""Istio: DEFAULT_WORKLOAD_CERT_TTL."""
MAX_TTL: Final = timedelta(days=90)
"""Istio: MAX_WORKLOAD_CERT_TTL."""
BACKDATED: Final = timedelta(minutes=2)
"""Clocks of nodes differ a little (Istio: ClockSkewGracePeriod)."""
ROOT_TTL: Final = timedelta(days=3650)
SERVING_TTL: Final = timedelta(days=90)
MAX_CHAIN: Final = 10
"""Certificates from the signing one up to its root; real ones have two or three."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class TtlError(Exception):
    """The lifetime asked for is longer than allowed."""


class UnusableError(MeshError):
    """This is no certificate authority; never contains the key."""


class Lifetimes(NamedTuple):
    """How long workload certificates live."""

    usual: timedelta = DEFAULT_TTL
    """For callers that do not ask for a lifetime."""
    longest: timedelta = MAX_TTL

    def granted(self, asked_s: int) -> timedelta:
        """The lifetime for a request, in seconds. Raises TtlError."""
        if asked_s <= 0:
            return self.usual
        if asked_s > self.longest.total_seconds():
            longest = int(self.longest.total_seconds())
            raise TtlError(f"{asked_s} s are longer than MAX_WORKLOAD_CERT_TTL, {longest} s")
        return timedelta(seconds=asked_s)


class Material(NamedTuple):
    """An authority as files hold it, PEM. ``chain``: certificates between signer and root."""

    certificate: bytes
    key: bytes
    roots: bytes
    chain: bytes = b""
    crl: bytes = b""

    def __repr__(self) -> str:
        return "Material(...)"  # it holds a key, and representations end up in logs


class Authority:
    """A signing certificate with its key, and the roots that peers are told to trust."""

    def __init__(self, material: Material) -> None:
        """Raises UnusableError, which never contains the key."""
        try:
            self.certificate, *rest = x509.load_pem_x509_certificates(material.certificate)
            key = serialization.load_pem_private_key(material.key, password=None)
            self.roots = tuple(x509.load_pem_x509_certificates(material.roots))
            if material.chain.strip():
                rest += x509.load_pem_x509_certificates(material.chain)
            if material.crl.strip():
                x509.load_pem_x509_crl(material.crl)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _unusable("a part of it is no PEM certificate, key or CRL") from None
        if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            raise _unusable("its key is neither EC nor RSA")
        if key.public_key() != self.certificate.public_key():
            raise _unusable("its key does not belong to its certificate")
        if not _may_sign(self.certificate):
            raise _unusable("it is no CA certificate (basicConstraints)")
        self._key: PrivateKey = key
        above = _path(self.certificate, rest, self.roots)
        is_root = self.certificate in self.roots
        self.intermediates = above if is_root else (self.certificate, *above)
        """What stands between a leaf and its root; peers are sent it."""
        self.roots_pem = material.roots.decode().strip() + "\n"
        self.crl_pem = material.crl.decode().strip() + "\n" if material.crl.strip() else ""

    @property
    def ends(self) -> datetime:
        """When the first certificate of the signing chain expires."""
        chain = (self.certificate, *self.intermediates)
        return min(one.not_valid_after_utc for one in chain)

    @property
    def root_ends(self) -> datetime:
        """When the root above us expires."""
        last = (self.certificate, *self.intermediates)[-1]
        return next(root.not_valid_after_utc for root in self.roots if _issued(last, root))

    def issue(
        self, csr_pem: str, identity: Identity, ttl: timedelta, *, now: datetime, serial: int
    ) -> list[str]:
        """A workload's chain: leaf, intermediates, the whole root bundle as the last element.

        Only the key of the request counts. Raises CsrError.
        """
        public_key = checked_key(csr_pem, identity)
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
        leaf = self._leaf(public_key, san, ttl, now=now, serial=serial)
        return [leaf, *map(_pem, self.intermediates), self.roots_pem]

    def serving(
        self, names: list[str], key: ec.EllipticCurvePrivateKey, *, now: datetime, serial: int
    ) -> str:
        """Our own server certificate chain, as PEM."""
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        leaf = self._leaf(key.public_key(), san, SERVING_TTL, now=now, serial=serial)
        return leaf + "".join(map(_pem, self.intermediates)) + self.roots_pem

    def same_as(self, other: Authority) -> bool:
        """Whether it signs and trusts the same."""
        return (self.certificate, self.intermediates, self.roots_pem, self.crl_pem) == (
            (other.certificate, other.intermediates, other.roots_pem, other.crl_pem)
        )

    def _leaf(
        self,
        public_key: CertificatePublicKeyTypes,
        san: x509.SubjectAlternativeName,
        ttl: timedelta,
        *,
        now: datetime,
        serial: int,
    ) -> str:
        until = min(now + ttl, self.ends)
        if until <= now:
            raise _unusable(f"it has expired at {self.ends.isoformat()}")
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
    key: ec.EllipticCurvePrivateKey,
    trust_domain: str,
    *,
    now: datetime,
    serial: int,
    ttl: timedelta = ROOT_TTL,
) -> bytes:
    """A root certificate as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
    # Two roots of one name are told apart by this identifier.
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + ttl)
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


def _path(
    certificate: x509.Certificate,
    between: list[x509.Certificate],
    roots: tuple[x509.Certificate, ...],
) -> tuple[x509.Certificate, ...]:
    """The certificates from above ``certificate`` to below a root. Raises UnusableError."""
    found: list[x509.Certificate] = []
    current = certificate
    while not any(_issued(current, root) for root in roots):
        above = next((one for one in between if one != current and _issued(current, one)), None)
        if above is None or above in found or len(found) >= MAX_CHAIN:
            raise _unusable("its chain does not lead to any of the root certificates")
        found.append(above)
        current = above
    return tuple(found)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return _may_sign(issuer)


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


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


def _unusable(reason: str) -> UnusableError:
    return UnusableError(f"the signing certificate cannot be used: {reason}")
