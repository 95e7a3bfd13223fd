"""What comes before the bytes of a new stream to an endpoint: a PROXY header, or a CONNECT."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from ambient.api.address import HostPort
from ambient.net.core import proxy_header
from waypoint.core.objects import Json, UnusableError, integer, string

MAX_ANSWER: Final = 16 * 1024
"""Bytes of a proxy's answer to a CONNECT."""
OK: Final = range(200, 300)


class Ends(NamedTuple):
    """A client's address, and what it called."""

    client: HostPort
    called: HostPort


class Opening(NamedTuple):
    """What a new stream is for. ``alpn`` is what TLS offers; ``raw`` streams may be tunnelled."""

    alpn: str = ""
    ends: Ends | None = None
    raw: bool = False


class ProxyTunnel(msgspec.Struct, frozen=True):
    """``tunnel`` of a DestinationRule: whither its endpoints, which are proxies, shall connect."""

    to: HostPort
    post: bool = False
    """By POST, with the bytes in chunks, for proxies that know no CONNECT."""


class OpeningRefusedError(OSError):
    """A proxy did not open the tunnel."""


def read_proxy_protocol(raw: Json | None) -> int:
    """The version of ``proxyProtocol``, 0 where there is none. Raises UnusableError."""
    if raw is None:
        return 0
    version = string(raw.get("version"), "proxyProtocol.version", "V1")
    if version not in ("V1", "V2"):
        raise UnusableError("proxyProtocol.version", f"{version!r} is neither V1 nor V2")
    return int(version[1])


def read_tunnel(raw: Json | None) -> ProxyTunnel | None:
    """None where there is no ``tunnel``. Raises UnusableError."""
    if raw is None:
        return None
    protocol = string(raw.get("protocol"), "tunnel.protocol", "CONNECT")
    if protocol not in ("CONNECT", "POST"):
        raise UnusableError("tunnel.protocol", f"{protocol!r} is neither CONNECT nor POST")
    host = string(raw.get("targetHost"), "tunnel.targetHost")
    port = integer(raw.get("targetPort"), "tunnel.targetPort")
    if not host or not 0 < port <= 65535 or any(char <= " " for char in host):
        raise UnusableError("tunnel", "needs targetHost and targetPort")
    return ProxyTunnel(HostPort(host, port), protocol == "POST")


def header(version: int, ends: Ends | None) -> bytes:
    """The PROXY header; without ``ends`` it says that nobody is known."""
    ends = ends or Ends(HostPort("", 0), HostPort("", 0))
    if version == 1:
        return proxy_header.encode_v1(ends.client, ends.called)
    return proxy_header.encode(ends.client, ends.called, None)


def connect_request(tunnel: ProxyTunnel) -> bytes:
    """RFC 9110, section 9.3.6."""
    return f"CONNECT {tunnel.to} HTTP/1.1\r\nhost: {tunnel.to}\r\n\r\n".encode()


def post_request(tunnel: ProxyTunnel) -> bytes:
    """As Envoy's ``use_post``."""
    return (f"POST / HTTP/1.1\r\nhost: {tunnel.to}\r\ntransfer-encoding: chunked\r\n\r\n").encode()


def check_answer(head: bytes) -> None:
    """Of a proxy, up to the empty line. Raises OpeningRefusedError."""
    line = head.partition(b"\r\n")[0].decode("latin-1")
    version, _, rest = line.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not status.isdigit():
        raise OpeningRefusedError(f"the proxy's answer to CONNECT is no HTTP/1.1: {line[:60]!r}")
    if int(status) not in OK:
        raise OpeningRefusedError(f"the proxy answers CONNECT with {rest[:60]}")
