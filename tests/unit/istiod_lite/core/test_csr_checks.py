"""Hostile certificate requests: each is refused for its own reason."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ambient.api.spiffe import Identity
from ambient.identity.core.csr import new_key_and_csr
from istiod_lite.core.csr_checks import CsrError, CsrFault, checked_key

WEB = Identity("cluster.local", "shop", "web")
OWN = x509.UniformResourceIdentifier(str(WEB))
ADMIN = x509.UniformResourceIdentifier("spiffe://cluster.local/ns/kube-system/sa/admin")
SIGNING = x509.KeyUsage(
    digital_signature=True,
    key_encipherment=False,
    key_cert_sign=True,
    crl_sign=False,
    content_commitment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def csr(*extensions, key=None):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for one in extensions:
        builder = builder.add_extension(one, critical=False)
    request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def names(*values):
    return x509.SubjectAlternativeName(values)


@pytest.mark.parametrize(
    ("request_", "fault", "said"),
    [
        (csr(names(ADMIN)), CsrFault.FOREIGN_NAME, str(WEB)),
        (csr(names(x509.DNSName("istiod.istio-system.svc"))), CsrFault.FOREIGN_NAME, "istiod"),
        (csr(names(x509.RFC822Name("a@b"))), CsrFault.FOREIGN_NAME, "a@b"),
        (csr(names(OWN, ADMIN)), CsrFault.SEVERAL_NAMES, "2 names"),
        (csr(names(OWN, OWN)), CsrFault.SEVERAL_NAMES, "2 names"),
        (csr(x509.BasicConstraints(ca=True, path_length=0)), CsrFault.AUTHORITY, "authority"),
        (csr(names(OWN), SIGNING), CsrFault.AUTHORITY, "right to sign"),
        (csr(key=rsa.generate_private_key(65537, 1024)), CsrFault.WEAK_KEY, "2048"),
        ("-----BEGIN CERTIFICATE REQUEST-----", CsrFault.UNREADABLE, "PEM"),
        ("A" * 20_000, CsrFault.UNREADABLE, "bytes"),
    ],
)
def test_refusals(request_, fault, said):
    with pytest.raises(CsrError, match=said) as caught:
        checked_key(request_, WEB)
    assert caught.value.fault is fault


def test_what_our_own_client_sends_is_fine():
    assert checked_key(new_key_and_csr(WEB)[1].decode(), WEB)
    assert checked_key(csr(), WEB)
    assert checked_key(csr(x509.BasicConstraints(ca=False, path_length=None)), WEB)
