"""Who is the peer, as OpenSSL tells it?"""

import pytest

from ambient.api.spiffe import Identity
from ambient.identity.core.verify import PeerIdentityError, peer_identity


def test_the_one_uri_name_is_the_identity():
    certificate = {"subjectAltName": (("DNS", "x"), ("URI", "spiffe://td/ns/a/sa/b"))}
    assert peer_identity(certificate) == Identity("td", "a", "b")


@pytest.mark.parametrize(
    ("certificate", "complaint"),
    [
        (None, "no certificate"),
        ({}, "no certificate"),
        ({"subject": ()}, "0 URI names"),
        ({"subjectAltName": (("DNS", "spiffe://td/ns/a/sa/b"),)}, "0 URI names"),
        ({"subjectAltName": (("URI", "spiffe://td/ns/a/sa/b"),) * 2}, "2 URI names"),
        ({"subjectAltName": (("URI", "https://td/ns/a/sa/b"),)}, "is not spiffe://"),
        ({"subjectAltName": (("URI", "spiffe://td/ns//sa/b"),)}, "is not spiffe://"),
    ],
)
def test_anything_else_is_refused(certificate, complaint):
    with pytest.raises(PeerIdentityError, match=complaint):
        peer_identity(certificate)
