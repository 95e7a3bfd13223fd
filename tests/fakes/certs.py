"""A certificate authority for tests: SPIFFE certificates and TLS contexts, good and bad ones."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ambient.api.spiffe import Identity


def identity(name: str, namespace: str = "default") -> Identity:
    """``spiffe://cluster.local/ns/<namespace>/sa/<name>``."""
    return Identity("cluster.local", namespace, name)


@dataclass(frozen=True)
class Issued:
    """A workload's certificate. ``chain``, ``key``, ``roots`` are PEM."""

    identity: Identity
    chain: bytes
    key: bytes
    roots: bytes

    def client_context(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def server_context(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        context.load_verify_locations(cadata=self.roots.decode())
        memory = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(memory, self.key + self.chain)
            context.load_cert_chain(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)
        return context


class TestCa:
    """A self-signed root. Two of them do not trust each other (``foreign``)."""

    __test__ = False

    def __init__(self, name: str = "cluster.local") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        certificate = (
            _builder(self._name, self._name, timedelta(days=-1), timedelta(days=3650))
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.roots = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        name: str | Identity,
        *,
        begins: timedelta = timedelta(hours=-2),
        ends: timedelta = timedelta(days=1),
        roots: bytes | None = None,
    ) -> Issued:
        """A certificate valid between ``begins`` and ``ends`` from now; ``roots``: whom its holder
        trusts, by default this CA."""
        holder = name if isinstance(name, Identity) else identity(name)
        key = ec.generate_private_key(ec.SECP256R1())
        uri = x509.UniformResourceIdentifier(str(holder))
        certificate = (
            _builder(x509.Name([]), self._name, begins, ends)
            .public_key(key.public_key())
            .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            identity=holder,
            chain=certificate.public_bytes(serialization.Encoding.PEM),
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            roots=roots or self.roots,
        )

    def expired(self, name: str | Identity) -> Issued:
        """Ended an hour ago."""
        return self.issue(name, ends=timedelta(hours=-1))

    def foreign(self, name: str | Identity) -> Issued:
        """Signed by a CA that nobody here trusts; its holder trusts us."""
        return TestCa("elsewhere").issue(name, roots=self.roots)


def _builder(
    subject: x509.Name, issuer: x509.Name, begins: timedelta, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
