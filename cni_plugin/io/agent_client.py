"""The plugin's call to the node agent: one HTTP POST over a unix socket.

Written by hand because ``http.client`` would cost more time than the rest of the plugin. HTTP/1.0,
so that the answer ends with the connection and is never chunked.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Final

EVENT_SOCKET: Final = "pluginevent.sock"
"""In the run dir; Istio's name for it."""
TIMEOUT_S: Final = 20.0
"""For a whole call: longer than the agent waits for the tunnel (5 s) and for the API server."""
_MAX_ANSWER_BYTES: Final = 1 << 20


class AgentAbsentError(Exception):
    """Nobody answers on the socket; the text says how that showed."""


def post(socket_path: str, target: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and body of the agent's answer. Raises AgentAbsentError."""
    payload = json.dumps(body).encode()
    head = (
        f"POST {target} HTTP/1.0\r\nHost: agent\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(socket_path)
            connection.sendall(head.encode() + payload)
            return _answer(_read_to_end(connection))
    except OSError as error:
        raise AgentAbsentError(error.strerror or str(error)) from None


def _read_to_end(connection: socket.socket) -> bytes:
    ends_at = time.monotonic() + TIMEOUT_S
    answer = bytearray()
    while len(answer) < _MAX_ANSWER_BYTES:
        connection.settimeout(max(ends_at - time.monotonic(), 0.001))
        data = connection.recv(65536)
        if not data:
            break
        answer += data
    return bytes(answer)


def _answer(raw: bytes) -> tuple[int, str]:
    head, _, body = raw.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if not head.startswith(b"HTTP/1.") or not status or not status[0].isdigit():
        raise AgentAbsentError("the answer is not HTTP")
    return int(status[0]), body.decode(errors="replace").strip()
