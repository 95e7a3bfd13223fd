"""Two contexts shake hands in memory; whoever is not of this mesh cannot."""

import ssl

import pytest

from ambient.api.spiffe import Identity
from ambient.identity.core.csr import new_key_and_csr
from ambient.identity.core.svid import parse_svid
from ambient.identity.core.verify import peer_identity
from ambient.identity.io.tls import make_context
from tests.fakes.ca_server import Authority

WEB = Identity("cluster.local", "shop", "web")
API = Identity("cluster.local", "shop", "api")


def svid(authority, identity):
    key_pem, csr_pem = new_key_and_csr(identity)
    return parse_svid(identity, key_pem, authority.sign_csr(csr_pem, identity))


def handshake(client: ssl.SSLContext, server: ssl.SSLContext):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    c = client.wrap_bio(to_client, to_server, server_side=False)
    s = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for side in (c, s):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    unread = to_client.pending  # session tickets would wait here
    # A client in TLS 1.3 is done before it hears what the server thinks of its certificate.
    s.write(b"x")
    assert c.read(1) == b"x"
    return c, s, unread


@pytest.fixture(scope="module")
def authority():
    return Authority()


def test_both_sides_know_each_other(authority):
    client, server, unread = handshake(
        make_context(svid(authority, WEB), False), make_context(svid(authority, API), True)
    )
    assert peer_identity(client.getpeercert()) == API
    assert peer_identity(server.getpeercert()) == WEB
    assert client.version() == server.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == "h2"
    assert unread == 0


def test_a_certificate_of_another_root_is_refused_by_either_side(authority):
    stranger = Authority()
    ours, theirs = svid(authority, WEB), svid(stranger, WEB)
    for client, server in ((ours, theirs), (theirs, ours)):
        with pytest.raises(ssl.SSLError):
            handshake(make_context(client, False), make_context(server, True))


def test_a_client_without_a_certificate_is_refused(authority):
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        handshake(nobody, make_context(svid(authority, API), True))


def test_tls_1_2_is_not_spoken(authority):
    old = make_context(svid(authority, WEB), False)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        handshake(old, make_context(svid(authority, API), True))
