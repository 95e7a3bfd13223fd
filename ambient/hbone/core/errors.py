"""What can go wrong in a tunnel; every class says whose fault it is and carries the wire code."""

from __future__ import annotations

from typing import ClassVar

from ambient.api.errors import MeshError
from ambient.hbone.core.frames import ErrorCode, error_name


class HboneError(MeshError):
    """Base of everything that the tunnel raises."""


class PeerError(HboneError):
    """The peer broke HTTP/2: the connection ends with ``code`` in a GOAWAY."""

    code: ClassVar[ErrorCode] = ErrorCode.PROTOCOL_ERROR


class ProtocolError(PeerError):
    """A frame in the wrong place or with the wrong content."""


class FlowControlError(PeerError):
    """More bytes than the window allowed, or a window above 2^31-1."""

    code = ErrorCode.FLOW_CONTROL_ERROR


class FrameSizeError(PeerError):
    """A frame longer than our limit, or of a length its type does not have."""

    code = ErrorCode.FRAME_SIZE_ERROR


class CompressionError(PeerError):
    """A header block that HPACK cannot read; the tables of both sides differ from now on."""

    code = ErrorCode.COMPRESSION_ERROR


class FloodError(PeerError):
    """More cheap-to-send, dear-to-serve frames than a healthy peer needs."""

    code = ErrorCode.ENHANCE_YOUR_CALM


class HboneStreamError(HboneError):
    """One stream ended early. ``code`` is the wire code, ``retryable`` says that the peer did
    nothing with the request, so it may be sent again elsewhere."""

    def __init__(self, message: str, code: int, *, retryable: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.retryable = retryable

    @classmethod
    def reset_by_peer(cls, code: int) -> HboneStreamError:
        return cls(
            f"the peer reset the stream with {error_name(code)}",
            code,
            retryable=code == ErrorCode.REFUSED_STREAM,
        )

    @property
    def orderly(self) -> bool:
        """Whether the reset only says "no longer interested" (ztunnel treats these as an end)."""
        return self.code in (ErrorCode.NO_ERROR, ErrorCode.CANCEL, ErrorCode.STREAM_CLOSED)


class ConnectionLostError(HboneStreamError):
    """The connection under the stream is gone; ``code`` is what ended it."""

    @property
    def orderly(self) -> bool:
        return False


class PeerRevokedError(ConnectionLostError):
    """The peer's certificate was revoked while the connection was open."""


class HandshakeError(HboneError):
    """No HBONE connection came about; ``peer`` is whom we dialled or who dialled us."""

    def __init__(self, peer: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"no HBONE connection with {peer}: {reason}", hint=hint)
        self.peer = peer
        self.reason = reason


class ConnectRefused(HboneError):  # noqa: N818 - reads as the event that it is
    """The peer answered CONNECT with a status other than 200."""

    def __init__(self, authority: str, status: int, reason: str = "") -> None:
        hints = {
            400: "does the address belong to the pod that was dialled?",
            401: "an authorization policy on the destination denied it",
            503: "does the application listen on that port?",
        }
        message = f"CONNECT {authority} was refused with status {status}" + (
            f": {reason}" if reason else ""
        )
        super().__init__(message, hint=hints.get(status, ""))
        self.status = status
