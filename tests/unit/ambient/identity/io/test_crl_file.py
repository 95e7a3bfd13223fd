"""The revocation file over its life: absent, there, changed, damaged, gone."""

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry, generate_latest

from ambient.identity.core.crl import CrlError, RevokedError
from ambient.identity.io.crl_file import CrlFile, revocation_of
from tests.fakes.ca_server import Authority


@pytest.fixture
def authority():
    return Authority()


def leaf(authority):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return authority.issue(key, [x509.DNSName("x")])


def chain(authority, certificate):
    return [one.public_bytes(Encoding.DER) for one in (certificate, authority.root)]


async def test_the_life_of_a_revocation_file(authority, tmp_path, nursery, autojump_clock):
    first, second, third = (leaf(authority) for _ in range(3))
    path = tmp_path / "crl.pem"
    crl = CrlFile(str(path))
    await nursery.start(crl.run)  # absent: nothing is revoked
    cut = []
    forget = crl.admit(chain(authority, first), "destination", lambda: cut.append("first"))
    crl.admit(chain(authority, second), "source", lambda: cut.append("second"))

    path.write_bytes(authority.revoke(third))
    await trio.sleep(3)
    assert cut == []
    with pytest.raises(RevokedError, match="revoked by CRL"):
        crl.admit(chain(authority, third), "destination", lambda: None)

    forget()  # its connection has ended
    path.write_bytes(authority.revoke(first, second, third))
    await trio.sleep(3)
    assert cut == ["second"]

    for damage in (lambda: path.write_text("damaged"), path.unlink):
        damage()
        await trio.sleep(3)
        with pytest.raises(RevokedError):
            crl.admit(chain(authority, first), "destination", lambda: None)

    path.write_text("")  # on purpose: nothing is revoked any more
    await trio.sleep(3)
    crl.admit(chain(authority, first), "destination", lambda: None)

    registry = CollectorRegistry()
    registry.register(crl)
    text = generate_latest(registry).decode()
    assert 'istio_crl_policy_rejections_total{reporter="destination"} 3.0' in text
    assert 'istio_crl_policy_rejections_total{reporter="source"} 1.0' in text


def test_where_there_is_no_file_there_is_no_follower(tmp_path):
    assert revocation_of("") is None
    with pytest.raises(CrlError, match="is a folder"):
        revocation_of(str(tmp_path))
