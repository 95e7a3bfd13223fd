"""What every HTTP/2 stream has: its state, its windows and where its bytes go."""

from __future__ import annotations

from typing import Any, Final, Protocol

from ambient.hbone.core.errors import HboneStreamError
from ambient.hbone.core.frames import END_STREAM, HEAD, HEAD_BYTES, Frame, window_update
from ambient.hbone.core.limits import OUTPUT_HIGH, UPDATES_PER_FRAME, Limits

_pack_head, _pack_head_into = HEAD.pack, HEAD.pack_into
_DATA = int(Frame.DATA)


class DataSink(Protocol):
    """Who takes what arrives on a stream. Calls come in wire order, never after ``failed``."""

    def data(self, view: memoryview) -> None:
        """Bytes of the tunnel, valid during the call only; owed to ``Stream.credit`` later."""

    def ended(self) -> None:
        """The peer sends nothing more."""

    def failed(self, error: HboneStreamError) -> None:
        """The stream is over in both directions."""

    def writable(self) -> None:
        """After ``Streams.block``: there may be room again."""


class Carrier(Protocol):
    """What a stream asks of its connection; see ``Streams`` and in ``Link`` for the meanings."""

    client: bool
    limits: Limits
    out: bytearray
    congested: bool
    send_window: int
    peer_initial_window: int
    peer_max_frame: int
    updates_left: int
    owed: int
    credit_step: int
    stream_credit_step: int
    discard: DataSink

    def credit(self, size: int) -> None: ...

    def settle(self, stream: Any) -> None: ...

    def block(self, stream: Any) -> None: ...

    def reset(self, stream: Any, code: int) -> None: ...


class FlowStream:
    """Made by its connection; the shell sets ``sink`` and may exchange it between two calls."""

    __slots__ = (
        "answered",
        "id",
        "local_ended",
        "owed",
        "receive_window",
        "remote_ended",
        "send_window",
        "sink",
        "tunnel",
    )

    def __init__(self, tunnel: Carrier, stream_id: int) -> None:
        self.tunnel = tunnel
        self.id = stream_id
        self.send_window = tunnel.peer_initial_window
        """Bytes that we may still send; below 0 after the peer shrank its initial window."""
        self.receive_window = tunnel.limits.stream_window
        """Bytes that the peer may still send."""
        self.owed = 0
        """Bytes that left us and are not yet given back to the peer in a WINDOW_UPDATE."""
        self.local_ended = False
        self.remote_ended = False
        self.answered = False
        """The response HEADERS went out (server) or came in (client)."""
        self.sink: Any = tunnel.discard
        """A ``DataSink``; heirs may ask for more."""

    @property
    def closed(self) -> bool:
        return self.local_ended and self.remote_ended

    def budget(self) -> int:
        """How many bytes may be sent now; 0 or less: ask the tunnel to ``block`` and wait."""
        tunnel = self.tunnel
        if tunnel.congested or self.local_ended:
            return 0
        window = self.send_window if self.send_window < tunnel.send_window else tunnel.send_window
        return window if window < tunnel.peer_max_frame else tunnel.peer_max_frame

    def frame_in_place(self, buffer: bytearray, view: memoryview, size: int) -> memoryview:
        """A DATA frame of ``size`` bytes (at most ``budget``) that lie behind 9 spare ones.

        ``view`` is a memoryview of ``buffer``; the head is written into the spare bytes. The caller
        sends the answer next, or appends it to ``tunnel.out``.
        """
        _pack_head_into(buffer, 0, size >> 8, size & 0xFF, _DATA, 0, self.id)
        tunnel = self.tunnel
        self.send_window -= size
        tunnel.send_window -= size
        tunnel.updates_left += UPDATES_PER_FRAME * (1 + (size >> 14))
        if len(tunnel.out) > OUTPUT_HIGH:
            tunnel.congested = True
        return view[: HEAD_BYTES + size]

    def send(self, data: bytes | bytearray | memoryview, *, last: bool = False) -> int:
        """Send as much of ``data`` as the budget allows; returns how much that was.

        Where that is all, and it is the ``last``, the frame carries END_STREAM."""
        size, budget = len(data), self.budget()
        if size > budget:
            size, last = budget, False
            data = memoryview(data)[: max(0, size)]
        if size <= 0:
            return 0
        tunnel = self.tunnel
        flags = END_STREAM if last else 0
        tunnel.out += _pack_head(size >> 8, size & 0xFF, _DATA, flags, self.id)
        tunnel.out += data
        self.send_window -= size
        tunnel.send_window -= size
        tunnel.updates_left += UPDATES_PER_FRAME * (1 + (size >> 14))
        if len(tunnel.out) > OUTPUT_HIGH:
            tunnel.congested = True
        if last:
            self.local_ended = True
            tunnel.settle(self)
        return size

    def end(self) -> None:
        """Send END_STREAM in an empty DATA frame (needs no window)."""
        if not self.local_ended:
            self.tunnel.out += HEAD.pack(0, 0, Frame.DATA, END_STREAM, self.id)
            self.local_ended = True
            self.tunnel.settle(self)

    def credit(self, size: int) -> None:
        """``size`` received bytes have left us. Also due for streams that are closed meanwhile,
        since their bytes count against the connection's window."""
        tunnel = self.tunnel
        tunnel.owed += size
        self.owed += size
        if tunnel.owed >= tunnel.credit_step:
            tunnel.credit(0)
        if self.owed >= tunnel.stream_credit_step and not self.remote_ended:
            tunnel.out += window_update(self.id, self.owed)
            self.receive_window += self.owed
            self.owed = 0


class Discard:
    """The sink of streams that nobody listens to any more: bytes are counted and dropped."""

    __slots__ = ("_tunnel",)

    def __init__(self, tunnel: Carrier) -> None:
        self._tunnel = tunnel  # not the stream: a cycle for each would keep the collector busy

    def data(self, view: memoryview) -> None:
        self._tunnel.credit(len(view))

    def ended(self) -> None: ...

    def failed(self, error: HboneStreamError) -> None: ...

    def writable(self) -> None: ...


class Nowhere:
    """The same, of a connection that is over itself."""

    __slots__ = ()

    def data(self, view: memoryview) -> None: ...

    def ended(self) -> None: ...

    def failed(self, error: HboneStreamError) -> None: ...

    def writable(self) -> None: ...


NOWHERE: Final = Nowhere()
