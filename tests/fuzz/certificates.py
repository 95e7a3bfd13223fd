"""Any bytes as what a CA answers, as a revocation list, and as the names of a peer."""

from __future__ import annotations

import warnings
from contextlib import suppress

from cryptography.hazmat.primitives.serialization import Encoding

from ambient.api.spiffe import Identity
from ambient.identity.core.crl import CrlError, parse_lists
from ambient.identity.core.csr import new_key_and_csr
from ambient.identity.core.svid import SvidError, parse_svid
from ambient.identity.core.verify import PeerIdentityError, peer_identity
from tests.fakes.ca_server import Authority

_WEB = Identity("cluster.local", "shop", "web")
_AUTHORITY = Authority()
_KEY, _CSR = new_key_and_csr(_WEB)
_LEAF, _ROOT = _AUTHORITY.sign_csr(_CSR, _WEB)
SEEDS = [
    _LEAF.encode(),
    _ROOT.encode(),
    _AUTHORITY.revoke(_AUTHORITY.root),
    _AUTHORITY.root.public_bytes(Encoding.DER),
    str(_WEB).encode(),
    b"spiffe://cluster.local/ns/shop/sa/web/more",
]


warnings.filterwarnings("ignore", module="ambient.identity")  # of cryptography, for odd names


def run(data):
    """Raises AssertionError, or whatever else should not happen."""
    text = data.decode("latin-1")
    for answer in ([text, _ROOT], [_LEAF, text], [text], []):
        try:
            svid = parse_svid(_WEB, _KEY, answer)
        except SvidError:
            continue
        assert svid.identity == _WEB
    with suppress(CrlError):
        parse_lists(data).revoked([_AUTHORITY.root.public_bytes(Encoding.DER)] * 2)
    try:
        found = peer_identity({"subjectAltName": (("URI", text),)})
    except PeerIdentityError:
        return
    assert str(found) == text, "an identity has one spelling"
