"""What the authority signs, and what it refuses."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from istiod_lite.core.certificates import (
    Authority,
    Lifetimes,
    Material,
    TtlError,
    key_pem,
    self_signed,
)
from istiod_lite.core.csr_checks import CsrError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB = Identity("cluster.local", "shop", "web")
KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = self_signed(KEY, "cluster.local", now=NOW, serial=1)


@pytest.fixture
def authority():
    return Authority(Material(ROOT, key_pem(KEY), ROOT))


def csr(key=None, *, names=(), subject="", signer=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode()


def issued(authority, request, ttl_s=0, now=NOW):
    ttl = Lifetimes().granted(ttl_s)
    chain = authority.issue(request, WEB, ttl, now=now, serial=7)
    assert chain[1].encode() == ROOT
    return x509.load_pem_x509_certificate(chain[0].encode())


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_of_a_request_only_the_key_counts(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    asked = [x509.UniformResourceIdentifier(str(WEB))]
    leaf = issued(authority, csr(key, names=asked, subject="admin"))
    san = extension(leaf, x509.SubjectAlternativeName)
    assert (san.critical, [str(one.value) for one in san.value]) == (True, [str(WEB)])
    assert leaf.subject == x509.Name([])
    assert leaf.public_key() == key.public_key()
    assert extension(leaf, x509.BasicConstraints).value.ca is False
    usage = extension(leaf, x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (
        True,
        True,
        False,
    )
    assert set(extension(leaf, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    leaf.verify_directly_issued_by(authority.certificate)


@pytest.mark.parametrize(
    ("asked_s", "life"),
    [(0, timedelta(hours=24)), (-5, timedelta(hours=24)), (3600, timedelta(hours=1))],
)
def test_lifetimes(authority, asked_s, life):
    leaf = issued(authority, csr(), asked_s)
    assert leaf.not_valid_before_utc == NOW - timedelta(minutes=2)
    assert leaf.not_valid_after_utc == NOW + life


def test_no_leaf_outlives_the_root(authority):
    late = authority.certificate.not_valid_after_utc - timedelta(minutes=5)
    assert issued(authority, csr(), now=late).not_valid_after_utc == late + timedelta(minutes=5)
    with pytest.raises(MeshError, match="expired"):
        issued(authority, csr(), now=late + timedelta(hours=1))


def test_too_long_a_life_is_refused(authority):
    with pytest.raises(TtlError):
        issued(authority, csr(), 91 * 86400)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        dsa.generate_private_key(1024),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["short RSA", "DSA", "odd curve", "Ed25519"],
)
def test_weak_or_strange_keys_are_refused(authority, key):
    with pytest.raises(CsrError):
        issued(authority, csr(key))


def tampered():
    good = x509.load_pem_x509_csr(csr().encode()).public_bytes(serialization.Encoding.DER)
    broken = x509.load_der_x509_csr(good[:-1] + bytes([good[-1] ^ 1]))
    return broken.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    "text",
    ["", "x", ROOT.decode(), csr()[:200], "A" * 20000, "\x00\udcff", tampered()],
    ids=["empty", "text", "a certificate", "cut", "huge", "no text", "wrong signature"],
)
def test_what_is_no_request_is_refused(authority, text):
    with pytest.raises(CsrError):
        issued(authority, text)


def test_the_serving_certificate_verifies_for_its_names(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    chain = authority.serving(["istiod.istio-system.svc"], key, now=NOW, serial=9)
    leaf, root = x509.load_pem_x509_certificates(chain.encode())
    verifier = (
        PolicyBuilder()
        .store(Store([root]))
        .time(NOW + timedelta(days=1))
        .build_server_verifier(x509.DNSName("istiod.istio-system.svc"))
    )
    assert verifier.verify(leaf, [])


@pytest.mark.parametrize(
    ("certificate", "key", "roots"),
    [
        (b"", key_pem(KEY), ROOT),
        (ROOT, b"nonsense", ROOT),
        (ROOT, key_pem(KEY), b""),
        (ROOT, key_pem(ec.generate_private_key(ec.SECP256R1())), ROOT),
    ],
)
def test_an_unusable_secret_is_explained_without_its_key(certificate, key, roots):
    with pytest.raises(MeshError, match="signing certificate") as caught:
        Authority(Material(certificate, key, roots))
    assert "PRIVATE" not in str(caught.value)
