"""Which certificates a revocation file disowns."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ambient.api.spiffe import Identity
from ambient.identity.core.crl import CrlError, parse_lists
from ambient.identity.core.verify import PeerIdentityError
from tests.fakes.ca_server import Authority

WEB = Identity("cluster.local", "shop", "web")


def leaf(authority):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return authority.issue(key, [x509.UniformResourceIdentifier(str(WEB))])


def chain(authority, certificate):
    return [one.public_bytes(Encoding.DER) for one in (certificate, authority.root)]


def test_only_the_listed_certificate_is_revoked():
    authority = Authority()
    bad, good = leaf(authority), leaf(authority)
    lists = parse_lists(authority.revoke(bad))
    assert lists.revoked(chain(authority, bad)) == bad.serial_number
    assert lists.revoked(chain(authority, good)) is None
    assert lists.entries == 1


def test_many_lists_in_one_file_and_a_single_one_in_der():
    first, second = Authority(), Authority()
    one, two = leaf(first), leaf(second)
    lists = parse_lists(first.revoke(one) + b"\n" + second.revoke(two))
    assert lists.revoked(chain(first, one))
    assert lists.revoked(chain(second, two))
    der = x509.load_pem_x509_crl(first.revoke(one)).public_bytes(Encoding.DER)
    assert parse_lists(der).revoked(chain(first, one))


def test_a_list_speaks_only_for_the_key_that_signed_it():
    """Two roots of the same name, as while a root is being replaced."""
    ours, theirs = Authority(), Authority()
    certificate = leaf(ours)
    assert parse_lists(theirs.revoke(certificate)).revoked(chain(ours, certificate)) is None


def test_a_chain_that_cannot_be_read_is_refused_where_there_are_lists():
    authority = Authority()
    lists = parse_lists(authority.revoke(leaf(authority)))
    with pytest.raises(PeerIdentityError, match="cannot be compared"):
        lists.revoked([b"0", b"1"])


def test_an_expired_list_still_counts():
    authority = Authority()
    certificate = leaf(authority)
    old = authority.revoke(certificate, age=datetime.timedelta(days=400))
    assert parse_lists(old).revoked(chain(authority, certificate))


def test_an_empty_file_revokes_nothing():
    authority = Authority()
    lists = parse_lists(b"\n")
    assert lists.revoked(chain(authority, leaf(authority))) is None
    assert lists.entries == 0


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"\x30\x03\x02\x01\x00",
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    ],
)
def test_what_is_not_a_list_is_an_error(content):
    with pytest.raises(CrlError, match="it holds"):
        parse_lists(content)
