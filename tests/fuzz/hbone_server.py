"""Any bytes after the preface as an HTTP/2 client: frames, HPACK, windows, floods.

The only way out is PeerError, after which a GOAWAY is waiting; memory stays within the windows.
"""

from __future__ import annotations

from ambient.hbone.core.frames import PREFACE, Frame, frame, rst_stream, settings, window_update
from ambient.hbone.core.limits import SERVER_LIMITS
from tests.unit.ambient.hbone.core.wire import CONNECT_BLOCK, Side, connect_frame

_HELLO = bytes(settings({}))
SEEDS = [
    _HELLO + bytes(connect_frame(1)) + bytes(frame(Frame.DATA, 0, 1, b"x" * 100)),
    _HELLO + bytes(connect_frame(1)) + bytes(rst_stream(1, 8)) + bytes(connect_frame(3)),
    _HELLO + bytes(window_update(0, 1000)) + bytes(frame(Frame.PING, 0, 0, b"12345678")),
    _HELLO + bytes(frame(Frame.HEADERS, 0, 1, CONNECT_BLOCK)) * 2,
    _HELLO + bytes(frame(Frame.HEADERS, 0, 1, b"")) + bytes(frame(9, 4, 1, CONNECT_BLOCK)),
    _HELLO + bytes(frame(Frame.HEADERS, 4, 1, b"\x3f\xe1\x7f" + CONNECT_BLOCK)),
    bytes(settings({4: 2**31 - 1, 5: 2**24 - 1, 3: 0})) * 3,
]
MOST_HELD = SERVER_LIMITS.max_streams


def run(data):
    """Raises AssertionError, or whatever else should not happen."""
    side = Side(client=False)
    error = side.feed(PREFACE, data[: len(data) // 2], data[len(data) // 2 :])
    assert len(side.tunnel.streams) <= MOST_HELD
    # Every frame may be answered, by at most a GOAWAY, a refusal or an ACK of its own size.
    assert len(side.tunnel.out) <= 4096 + 8 * len(data)
    if error is not None:
        assert side.tunnel.out, "the peer is told why"
        assert side.feed(b"more") is None, "nothing is read after the end"
