"""The TLS record layer behind one small interface, so that kernel TLS can take its place later.

OpenSSL works on the socket itself: measured against memory buffers it moves half as much again per
second, since system calls cost less than the copies they save.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from ambient.api.spiffe import Identity
from ambient.hbone.core.errors import HandshakeError
from ambient.identity.core.crl import Revocation
from ambient.identity.core.verify import peer_identity

RECORD_BYTES: Final = 16_384
"""Largest plaintext of one TLS record (RFC 8446, section 5.1)."""

_REASONS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know the CA of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer says that our certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer rejects our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer rejects our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the peer rejects our certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer asks for a certificate and got none",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer showed no certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer does not speak TLS 1.3",
    "UNSUPPORTED_PROTOCOL": "the peer does not speak TLS 1.3",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "HTTP_REQUEST": "the peer speaks plain HTTP, not TLS",
    "NO_APPLICATION_PROTOCOL": "the peer does not speak HTTP/2 (ALPN h2)",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "the peer does not speak HTTP/2 (ALPN h2)",
}


class RecordLayer:
    """One TLS connection on a non-blocking socket. Reads and writes raise ssl.SSLError, OSError."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, client: bool) -> None:
        sock.setblocking(False)
        self._tls = context.wrap_socket(sock, server_side=not client, do_handshake_on_connect=False)
        # What SSLSocket puts around it costs a tenth of a small message.
        self._inner: Any = self._tls._sslobj  # type: ignore[attr-defined]
        self.fd = self._tls.fileno()
        self.ended = False
        """The peer sends nothing more; what ``read_into`` gave until now is all."""

    @property
    def sock(self) -> socket.socket:
        return self._tls

    def handshake(self) -> int:
        """One step; returns 0 when complete, else the epoll event to wait for."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return 0x001  # EPOLLIN
        except ssl.SSLWantWriteError:
            return 0x004  # EPOLLOUT
        return 0

    def identity(self, peer: str) -> Identity:
        """Who the peer is. Raises HandshakeError, PeerIdentityError."""
        if self._tls.selected_alpn_protocol() != "h2":
            raise HandshakeError(peer, "the peer does not speak HTTP/2 (ALPN h2)")
        return peer_identity(self._tls.getpeercert() or {})

    def admit(self, reporter: str, cut: Callable[[], None]) -> Callable[[], None]:
        """Have the peer's chain judged now and whenever revocation lists change.

        Answers how to end that. Raises RevokedError.
        """
        revocation: Revocation | None = getattr(self._tls.context, "revocation", None)
        if revocation is None:
            return lambda: None
        return revocation.admit(_verified_chain(self._tls), reporter, cut)

    def read_into(self, view: memoryview) -> int:
        """Fill ``view`` (which is longer than a record) with what has arrived.

        Returns -1 when nothing is there; 0 is the end (and ``ended`` is set, maybe earlier).
        """
        read = self._inner.read
        room = len(view)
        filled = 0
        try:
            while room - filled >= RECORD_BYTES:
                size = read(RECORD_BYTES, view[filled:])
                if not size:
                    self.ended = True
                    return filled
                filled += size
                if size < RECORD_BYTES:
                    # A short record is nearly always the last one there; asking again would cost a
                    # system call, and epoll (level-triggered) tells us if we are wrong.
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return filled or -1
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self.ended = True  # with a goodbye or without; streams have ends of their own
        return filled

    def write(self, data: bytearray | memoryview) -> int:
        """Returns how much was taken: all of it, or 0 when the socket is full.

        After a 0 the next call must begin with the same bytes: OpenSSL may have sent some.
        """
        try:
            return cast(int, self._inner.write(data))
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    def say_goodbye(self) -> None:
        """Best effort: close_notify and the end of the TCP stream."""
        with suppress(OSError, ValueError):  # it waits for the answer, or the peer is gone
            self._tls.unwrap()
        with suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)
        # OpenSSL's part, some 50 kB, must not wait until the collector finds the connection.
        self._inner = _GONE


class _Gone:
    """In place of OpenSSL's connection, when it is over."""

    def read(self, size: int, view: memoryview) -> int:
        return 0

    def write(self, data: bytearray | memoryview) -> int:
        raise BrokenPipeError


_GONE: Final = _Gone()


def _verified_chain(tls: ssl.SSLSocket) -> list[bytes]:
    """The path that OpenSSL accepted, leaf first, in DER."""
    public: Callable[[], list[bytes]] | None = getattr(tls, "get_verified_chain", None)
    if public is not None:  # Python 3.13
        return public()
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_verified_chain()]


def explain(peer: str, error: OSError) -> HandshakeError:
    """One clear line for a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "do both sides trust the same root, and is the certificate in its validity period?"
        return HandshakeError(
            peer, f"its certificate is refused: {error.verify_message}", hint=hint
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError):
        return HandshakeError(peer, "the peer closed the connection during the handshake")
    if isinstance(error, ssl.SSLError):
        reason = _REASONS.get(error.reason or "", "")
        return HandshakeError(peer, reason or f"TLS failed: {error.reason or error}")
    return HandshakeError(peer, error.strerror or str(error))
