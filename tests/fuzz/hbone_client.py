"""Any bytes as what an HTTP/2 server answers to two CONNECTs."""

from __future__ import annotations

from ambient.hbone.core.frames import Frame, frame, go_away, rst_stream, settings, window_update
from tests.unit.ambient.hbone.core.wire import Side

_HELLO = bytes(settings({}))
_OK = bytes(frame(Frame.HEADERS, 4, 1, b"\x88"))  # END_HEADERS; :status 200
SEEDS = [
    _HELLO + _OK + bytes(frame(Frame.DATA, 0, 1, b"x" * 100)) + bytes(frame(Frame.DATA, 1, 1, b"")),
    _HELLO + bytes(frame(Frame.HEADERS, 5, 3, b"\x48\x03401")),
    _HELLO + _OK + bytes(rst_stream(1, 8)) + bytes(window_update(3, 2**31 - 1)) * 2,
    _HELLO + bytes(go_away(1, 0)) + bytes(frame(Frame.PING, 0, 0, b"12345678")),
    _HELLO + bytes(frame(Frame.SETTINGS, 1, 0, b"")) * 4,
]


def run(data):
    """Ends with an answer, a failed stream or PeerError; what it sends is bounded by what came."""
    side = Side(client=True)
    side.open()
    side.open()
    sent = len(side.tunnel.out)
    error = side.feed(data[: len(data) // 3], data[len(data) // 3 :])
    assert len(side.tunnel.streams) <= 2, "a server opens none"
    assert len(side.tunnel.out) <= sent + 4096 + 8 * len(data)
    if error is not None:
        assert side.feed(b"more") is None, "nothing is read after the end"
