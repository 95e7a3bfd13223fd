"""Certificate authorities for tests: roots, and intermediates below them."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from istiod_lite.core.certificates import Material, key_pem, self_signed

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Ca:
    """A root with its key; ``below`` makes an intermediate."""

    def __init__(self, name="cluster.local", *, now=NOW, ttl=timedelta(days=3650)):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = self_signed(self.key, name, now=now, serial=x509.random_serial_number(), ttl=ttl)
        self.chain = b""

    @property
    def certificate(self):
        return x509.load_pem_x509_certificate(self.pem)

    def below(self, name, *, ca=True):
        made = Ca.__new__(Ca)
        made.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(made.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(self.certificate.not_valid_after_utc - timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        made.pem = certificate.public_bytes(serialization.Encoding.PEM)
        made.chain = made.pem + self.chain
        return made

    def crl(self):
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(NOW)
            .next_update(NOW + timedelta(days=30))
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self):
        return key_pem(self.key)

    def material(self):
        return Material(self.pem, self.key_pem, self.pem)


def cacerts(root, signer, *, more_roots=(), crl=b""):
    """The files of Secret cacerts for ``signer`` below ``root``."""
    files = {
        "ca-cert.pem": signer.pem,
        "ca-key.pem": signer.key_pem,
        "root-cert.pem": root.pem + b"".join(one.pem for one in more_roots),
        "cert-chain.pem": signer.chain,
    }
    return files | ({"ca-crl.pem": crl} if crl else {})
