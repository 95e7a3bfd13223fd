"""Any bytes as a SOCKS client."""

from __future__ import annotations

from ztunnel.core.socks5 import Handshake, SocksError

SEEDS = [
    bytes.fromhex("050100" + "05010001" + "0a000001" + "0050"),
    bytes.fromhex("050100" + "05010003") + b"\x08api.shop" + bytes.fromhex("0050"),
    bytes.fromhex("050100" + "05010004") + bytes(15) + bytes.fromhex("010050"),
    bytes.fromhex("05020102"),
    bytes.fromhex("0401"),
]


def run(data):
    """A target, a refusal, or more bytes wanted; never more than a name is long."""
    handshake, refusal = Handshake(), None
    at = 0
    while handshake.needs:
        assert handshake.needs <= 257
        piece = data[at : at + handshake.needs]
        if len(piece) < handshake.needs:
            return
        at += len(piece)
        try:
            handshake.feed(piece)
        except SocksError as error:
            refusal = error.answer
            break
    if refusal is not None:
        assert len(refusal) <= 10
        return
    assert handshake.target is not None
    assert 0 < handshake.target.port <= 65535
    assert handshake.target.host
