"""What we ask the CA to sign: an empty subject, one URI name, a new P-256 key."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ambient.api.spiffe import Identity


def new_key_and_csr(identity: Identity) -> tuple[bytes, bytes]:
    """A fresh private key (PKCS#8) and its signing request, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        # RFC 5280, section 4.2.1.6: critical where the subject is empty.
        .add_extension(names, critical=True)
        .sign(key, SHA256())
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key_pem, csr.public_bytes(Encoding.PEM)
