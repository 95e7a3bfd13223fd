"""What concerns the connection as a whole: settings, windows, PING, GOAWAY and flood limits."""

from __future__ import annotations

from typing import Final

import hpack

from ambient.hbone.core.errors import (
    CompressionError,
    FloodError,
    FlowControlError,
    FrameSizeError,
    ProtocolError,
)
from ambient.hbone.core.frames import (
    ACK,
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    LARGEST_MAX_FRAME,
    MAX_WINDOW,
    PREFACE,
    SETTING,
    ErrorCode,
    Frame,
    Setting,
    frame,
    go_away,
    settings,
    window_update,
)
from ambient.hbone.core.limits import (
    ASSUMED_PEER_STREAMS,
    MAX_SENT_FRAME,
    OUTPUT_MOST,
    UPDATES_AT_FIRST,
    FloodGate,
    Limits,
)

_UNLIMITED: Final = 2**32 - 1


class Link:
    """Both roles' connection state. ``out`` is what must be sent; the shell empties it."""

    def __init__(self, limits: Limits, *, client: bool) -> None:
        self.limits = limits
        self.client = client
        self.out = bytearray()
        self.congested = False
        """Too much of ``out`` waits for the network: nobody may send. The shell clears it."""
        self.now_s = 0.0
        self.updates_left = UPDATES_AT_FIRST
        """WINDOW_UPDATE frames that the peer may still send."""
        self.send_window = DEFAULT_WINDOW
        self.receive_window = limits.connection_window
        self.owed = 0
        self.stream_credit_step = limits.stream_window // 2
        self.credit_step = limits.connection_window // 2
        self.peer_initial_window = DEFAULT_WINDOW
        self.peer_max_frame = DEFAULT_MAX_FRAME
        self.peer_max_streams = ASSUMED_PEER_STREAMS
        self.peer_connect_protocol = False
        """The server takes extended CONNECT."""
        self.settled = False
        """The peer's first SETTINGS arrived."""
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(max_header_list_size=limits.max_header_list)
        # Sources: a healthy peer sends one SETTINGS per connection and one PING per 10 s; gRPC
        # peers probe bandwidth with a few PINGs per second.
        self._settings_gate = FloodGate(burst=20, per_second=1)
        self._ping_gate = FloodGate(burst=100, per_second=10)

    def start(self) -> None:
        """Queue the preface: SETTINGS, and the connection window above its 65,535 default."""
        limits = self.limits
        values = {
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list,
        }
        if self.client:
            self.out += PREFACE
            values[Setting.ENABLE_PUSH] = 0
        else:
            values[Setting.MAX_CONCURRENT_STREAMS] = limits.max_streams
            if limits.connect_protocol:
                values[Setting.ENABLE_CONNECT_PROTOCOL] = 1
        self.out += settings(values)
        self.out += window_update(0, limits.connection_window - DEFAULT_WINDOW)

    def credit(self, size: int) -> None:
        """``size`` bytes of the connection's receive window are free again."""
        self.owed += size
        if self.owed >= self.credit_step:
            self.out += window_update(0, self.owed)
            self.receive_window += self.owed
            self.owed = 0

    def ping(self, payload: bytes) -> None:
        """Queue a PING with 8 bytes of our choice."""
        self.out += frame(Frame.PING, 0, 0, payload)

    def check_output(self) -> None:
        """Before an answer that the peer can ask for as it likes. Raises FloodError where it does
        not read them."""
        if len(self.out) > OUTPUT_MOST:
            raise FloodError("the peer wants answers and does not read them")

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """HPACK. Must run for every block, wanted or not: the table is shared.

        Raises CompressionError, FloodError (list too long).
        """
        try:
            return [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as error:
            raise FloodError("a header list over the advertised limit") from error
        except hpack.HPACKError as error:
            raise CompressionError(f"bad header block: {error}") from error

    def encode(self, fields: list[hpack.HeaderTuple]) -> bytes:
        return self._encoder.encode(fields)

    def on_ping(self, flags: int, stream_id: int, payload: bytes) -> bytes | None:
        """Answers a PING; returns the payload of an answer to ours."""
        if stream_id:
            raise ProtocolError("PING on a stream")
        if len(payload) != 8:
            raise FrameSizeError("PING without 8 bytes")
        if flags & ACK:
            return payload
        if not self._ping_gate.admits(self.now_s):
            raise FloodError("too many PING frames")
        self.check_output()
        self.out += frame(Frame.PING, ACK, 0, payload)
        return None

    def on_settings(self, flags: int, stream_id: int, payload: bytes) -> int:
        """Takes the peer's values; returns by how much its initial stream window changed."""
        if stream_id:
            raise ProtocolError("SETTINGS on a stream")
        if len(payload) % SETTING.size or (flags & ACK and payload):
            raise FrameSizeError("SETTINGS of a bad length")
        if flags & ACK:
            return 0
        if not self._settings_gate.admits(self.now_s) or len(payload) > 100 * SETTING.size:
            raise FloodError("too many SETTINGS")
        self.check_output()
        if not self.settled:
            self.peer_max_streams = _UNLIMITED
        window_before = self.peer_initial_window
        for key, value in SETTING.iter_unpack(payload):
            self._apply(key, value)
        self.settled = True
        self.out += frame(Frame.SETTINGS, ACK, 0)
        return self.peer_initial_window - window_before

    def _apply(self, key: int, value: int) -> None:
        match key:
            case Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise FlowControlError(f"initial window {value}")
                self.peer_initial_window = value
            case Setting.MAX_FRAME_SIZE:
                if not DEFAULT_MAX_FRAME <= value <= LARGEST_MAX_FRAME:
                    raise ProtocolError(f"max frame size {value}")
                self.peer_max_frame = min(value, MAX_SENT_FRAME)
            case Setting.MAX_CONCURRENT_STREAMS:
                self.peer_max_streams = value
            case Setting.HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
            case Setting.ENABLE_PUSH:
                if value > 1 or (self.client and value):
                    raise ProtocolError(f"ENABLE_PUSH {value}")
            case Setting.ENABLE_CONNECT_PROTOCOL:
                if value > 1 or value < self.peer_connect_protocol:
                    raise ProtocolError(f"ENABLE_CONNECT_PROTOCOL {value}")
                self.peer_connect_protocol = value == 1
            case _:  # unknown settings are ignored; MAX_HEADER_LIST_SIZE is advice
                pass

    def queue_go_away(self, last_stream_id: int, code: ErrorCode, debug: str = "") -> None:
        self.out += go_away(last_stream_id, code, debug.encode("ascii", "replace")[:200])
