"""A certificate authority at the protocol edge: signs what it is asked, over gRPC.

Real certificates from a root made once; ``refuse`` makes it say no, ``calls`` says who asked.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ambient.api.pb import citadel_pb2, citadel_pb2_grpc
from ambient.api.spiffe import Identity

BACKDATED = datetime.timedelta(minutes=2)
WAYPOINT = Identity("cluster.local", "istio-system", "waypoint")


@dataclass
class Call:
    """One request as it arrived."""

    impersonated: str
    ttl_s: int
    metadata: dict[str, str]


@dataclass
class Refusal:
    """The answer to every request while it is set."""

    code: grpc.StatusCode
    details: str


class Authority:
    """A root and its key; the only part that knows how to sign."""

    def __init__(self, trust_domain: str = "cluster.local") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
        now = datetime.datetime.now(datetime.UTC)
        self.root = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, SHA256())
        )

    @property
    def root_pem(self) -> bytes:
        return self.root.public_bytes(Encoding.PEM)

    def issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        names: list[x509.GeneralName],
        *,
        ttl_s: float = 86_400,
        now: datetime.datetime | None = None,
    ) -> x509.Certificate:
        now = now or datetime.datetime.now(datetime.UTC)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        key_id = self.root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(BACKDATED, datetime.timedelta(seconds=ttl_s)))
            .not_valid_after(now + datetime.timedelta(seconds=ttl_s))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id),
                critical=False,
            )
            .sign(self._key, SHA256())
        )

    def revoke(self, *certificates: x509.Certificate, age: datetime.timedelta = BACKDATED) -> bytes:
        """A revocation list in PEM."""
        made = datetime.datetime.now(datetime.UTC) - age
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(made)
            .next_update(made + datetime.timedelta(days=1))
        )
        for certificate in certificates:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(made).build())
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def sign_csr(self, csr_pem: bytes, identity: Identity, *, ttl_s: float = 86_400) -> list[str]:
        """Leaf and root bundle, as a CA answers."""
        csr = x509.load_pem_x509_csr(csr_pem)
        name = x509.UniformResourceIdentifier(str(identity))
        leaf = self.issue(csr.public_key(), [name], ttl_s=ttl_s)
        return [leaf.public_bytes(Encoding.PEM).decode(), self.root_pem.decode()]

    def server_pair(self, *dns_names: str) -> tuple[bytes, bytes]:
        """Key and certificate in PEM for a TLS server."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.issue(key.public_key(), [x509.DNSName(name) for name in dns_names])
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key_pem, leaf.public_bytes(Encoding.PEM)


def _usage(**set_bits: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: set_bits.get(name, False) for name in names})


@dataclass
class FakeCa(citadel_pb2_grpc.IstioCertificateServiceServicer):
    """Signs for the impersonated identity, else for ``default_identity``."""

    authority: Authority = field(default_factory=Authority)
    token: str = "token"
    ttl_s: float | None = None
    """Overrides what was asked for."""
    refuse: Refusal | None = None
    default_identity: Identity = WAYPOINT
    calls: list[Call] = field(default_factory=list)

    def CreateCertificate(self, request, context):  # noqa: N802
        metadata = dict(context.invocation_metadata())
        asked = dict(request.metadata)
        impersonated = asked.get("ImpersonatedIdentity", "")
        self.calls.append(Call(impersonated, request.validity_duration, metadata))
        if metadata.get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid token")
        if self.refuse is not None:
            context.abort(self.refuse.code, self.refuse.details)
        identity = Identity.parse(impersonated) if impersonated else self.default_identity
        ttl_s = self.ttl_s if self.ttl_s is not None else request.validity_duration
        chain = self.authority.sign_csr(request.csr.encode(), identity, ttl_s=ttl_s)
        return citadel_pb2.IstioCertificateResponse(cert_chain=chain)
