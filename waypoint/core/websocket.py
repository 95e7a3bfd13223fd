"""The handshake of WebSockets, where the two sides speak different versions of HTTP.

HTTP/1.1 proves by a key that the server knows the protocol (RFC 6455, section 1.3); HTTP/2 needs
no proof (RFC 8441, section 5.1).
"""

from __future__ import annotations

import base64
from hashlib import sha1
from typing import Final

from msgspec.structs import replace

from waypoint.core.message import Headers, Request, Response

WEBSOCKET: Final = "websocket"
KEY: Final = "sec-websocket-key"
ACCEPT: Final = "sec-websocket-accept"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_of(key: str) -> str:
    """What proves that a server has read ``key``."""
    return base64.b64encode(sha1(key.encode() + _GUID).digest()).decode()


def for_http1(request: Request, random: bytes) -> Request:
    """An upgrade for an HTTP/1.1 endpoint: with a key (16 bytes) where the client has none."""
    if request.upgrade != WEBSOCKET or KEY in request.headers:
        return request
    headers = request.headers.copy()
    headers.add(KEY, base64.b64encode(random).decode())
    return replace(request, headers=headers)


def from_http1(response: Response, asked: Request, sent: Request) -> bool:
    """A 101: drops the proof that the client has not asked for; False where it is wrong."""
    if asked is sent:
        return True
    proof = response.headers.get(ACCEPT)
    response.headers.remove(ACCEPT)
    return proof == accept_of(sent.headers.first(KEY) or "")


def from_http2(response: Response, asked: Request) -> Response:
    """The 200 of an extended CONNECT as the 101 that it stands for, with the client's proof."""
    headers = Headers(response.headers)
    headers.set("upgrade", asked.upgrade)
    key = asked.headers.first(KEY)
    if key is not None and ACCEPT not in headers:
        headers.add(ACCEPT, accept_of(key))
    return Response(101, headers, end=True)


def for_http2(response: Response) -> Response:
    """A 101 as the 200 that answers an extended CONNECT."""
    headers = response.headers.copy()
    headers.remove("upgrade")
    return Response(200, headers)
