"""A CA's answer is used whole or not at all."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ambient.api.spiffe import Identity
from ambient.identity.core.csr import new_key_and_csr
from ambient.identity.core.svid import SvidError, parse_svid
from tests.fakes.ca_server import Authority

WEB = Identity("cluster.local", "shop", "web")
API = Identity("cluster.local", "shop", "api")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def request_():
    return new_key_and_csr(WEB)


def test_the_request_has_one_uri_an_empty_subject_and_a_p256_key(request_):
    key_pem, csr_pem = request_
    csr = x509.load_pem_x509_csr(csr_pem)
    assert csr.is_signature_valid
    assert len(csr.subject) == 0
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert csr.public_key().curve.name == "secp256r1"
    assert key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert new_key_and_csr(WEB)[0] != key_pem


def test_leaf_and_roots(authority, request_):
    key_pem, csr_pem = request_
    svid = parse_svid(WEB, key_pem, authority.sign_csr(csr_pem, WEB, ttl_s=3600))
    assert svid.identity == WEB
    assert svid.roots_pem == authority.root_pem
    assert svid.not_after_s - svid.not_before_s == pytest.approx(3600 + 120, abs=2)
    assert b"PRIVATE" not in svid.certificate_chain_pem
    assert "PRIVATE" not in repr(svid)


def test_several_roots_in_the_last_element_are_all_trusted(authority, request_):
    key_pem, csr_pem = request_
    older = Authority()
    leaf, root = authority.sign_csr(csr_pem, WEB)
    svid = parse_svid(WEB, key_pem, [leaf, older.root_pem.decode() + root])
    assert svid.roots_pem == older.root_pem + authority.root_pem


def test_an_intermediate_is_part_of_the_chain(authority, request_):
    key_pem, csr_pem = request_
    middle = Authority("middle")
    signed_middle = cross_sign(authority, middle)
    leaf, _ = middle.sign_csr(csr_pem, WEB)
    svid = parse_svid(WEB, key_pem, [leaf, signed_middle, authority.root_pem.decode()])
    assert svid.certificate_chain_pem.count(b"BEGIN CERTIFICATE") == 2
    with pytest.raises(SvidError, match="chain is broken"):
        parse_svid(WEB, key_pem, [leaf, authority.root_pem.decode(), authority.root_pem.decode()])


def cross_sign(authority: Authority, middle: Authority) -> str:
    inner = middle.root
    builder = (
        x509.CertificateBuilder()
        .subject_name(inner.subject)
        .issuer_name(authority.root.subject)
        .public_key(inner.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(inner.not_valid_before_utc)
        .not_valid_after(inner.not_valid_after_utc)
    )
    for extension in inner.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    signed = builder.sign(authority._key, inner.signature_hash_algorithm)
    return signed.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda leaf, root: [], "no root certificate present"),
        (lambda leaf, root: [leaf], "no root certificate present"),
        (lambda leaf, root: [leaf, "nonsense"], "not a PEM certificate"),
        (lambda leaf, root: [leaf, Authority().root_pem.decode()], "not signed by any"),
        (lambda leaf, root: [leaf, root * 30], "more than 20"),
        (lambda leaf, root: [root, root], "0 URI names"),
    ],
)
def test_an_incomplete_answer_is_refused(authority, request_, answer, complaint):
    key_pem, csr_pem = request_
    with pytest.raises(SvidError, match=complaint):
        parse_svid(WEB, key_pem, answer(*authority.sign_csr(csr_pem, WEB)))


def test_a_certificate_for_somebody_else_is_refused(authority, request_):
    key_pem, csr_pem = request_
    with pytest.raises(SvidError, match=r"sa/web, got a certificate for .*sa/api"):
        parse_svid(WEB, key_pem, authority.sign_csr(csr_pem, API))


def test_a_certificate_for_another_key_is_refused(authority, request_):
    other_key, _ = new_key_and_csr(WEB)
    with pytest.raises(SvidError, match="another key"):
        parse_svid(WEB, other_key, authority.sign_csr(request_[1], WEB))


def test_two_names_are_refused(authority, request_):
    key_pem, csr_pem = request_
    names = [x509.UniformResourceIdentifier(str(i)) for i in (WEB, API)]
    leaf = authority.issue(x509.load_pem_x509_csr(csr_pem).public_key(), names)
    chain = [leaf.public_bytes(Encoding.PEM).decode(), authority.root_pem.decode()]
    with pytest.raises(SvidError, match="2 URI names"):
        parse_svid(WEB, key_pem, chain)
