"""How much a peer may ask of us. Sizes in bytes; the numbers of ztunnel unless noted."""

from __future__ import annotations

from typing import Final, NamedTuple


class Limits(NamedTuple):
    """What we advertise and enforce on one connection."""

    max_header_list: int
    max_streams: int
    """Concurrent streams that the peer may open; 0 on the client side: none, no push."""
    stream_window: int = 4 * 1024 * 1024
    connection_window: int = 16 * 1024 * 1024
    """Four stream windows, so that one slow reader cannot stop the others."""
    max_frame: int = 1024 * 1024
    connect_protocol: bool = False
    """A server takes extended CONNECT."""


CLIENT_LIMITS: Final = Limits(max_header_list=16_384, max_streams=0)
SERVER_LIMITS: Final = Limits(max_header_list=65_536, max_streams=200)
assert SERVER_LIMITS.connection_window >= 4 * SERVER_LIMITS.stream_window

ASSUMED_PEER_STREAMS: Final = 100
"""Streams that we open before the peer's SETTINGS say how many it takes; never more than these."""
OUTPUT_HIGH: Final = 1024 * 1024
"""Bytes waiting for the network from which on a connection takes no more (our own choice: some
turns' worth, so that the socket never runs dry)."""
OUTPUT_MOST: Final = 4 * OUTPUT_HIGH
"""Bytes from which on a peer that wants answers without reading them is left (Envoy counts 1,000
frames)."""
UPDATES_AT_FIRST: Final = 5
UPDATES_PER_STREAM: Final = 2
UPDATES_PER_FRAME: Final = 20
"""WINDOW_UPDATE frames that a peer may send: some, more for each stream, and more for each 16 KiB
or frame of DATA that we sent (Envoy's arithmetic, which counts frames of 16 KiB)."""
SKIPS_REMEMBERED: Final = 64
"""Gaps between stream ids that are told apart from streams that are over."""
MAX_SENT_FRAME: Final = 256 * 1024
"""Longest DATA frame that we send, whatever the peer allows: what one turn reads at once."""
MAX_CONTROL_FRAME: Final = 128 * 1024
"""Longest frame that is held in memory whole; only DATA may be longer and is passed through."""
MAX_CONTINUATIONS: Final = 16
"""CONTINUATION frames after one HEADERS (our own choice; honest peers need at most 4)."""


class FloodGate:
    """A leaky bucket for one kind of frame: ``burst`` at once, then ``per_second``.

    Time is in seconds of any steady clock and comes from the caller.
    """

    __slots__ = ("_burst", "_last_s", "_level", "_per_second")

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._level = 0.0
        self._last_s = 0.0

    def admits(self, now_s: float) -> bool:
        """Count one frame; False when it is one too many."""
        drained = (now_s - self._last_s) * self._per_second
        self._last_s = now_s
        self._level = max(0.0, self._level - drained) + 1.0
        return self._level <= self._burst
