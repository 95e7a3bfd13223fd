"""Why a CONNECT was refused, told to the peer in the header Proxy-Status (RFC 9209).

Upstream sends the bare status 401; the client's side then cannot say which policy it was. Only a
peer that has proven an identity of our trust domain gets this far.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ambient.hbone.core.connect import ConnectResponse
from ambient.hbone.core.errors import ConnectRefused

PROXY_STATUS: Final = "proxy-status"
MAX_CHARS: Final = 512
"""Of a reason; a longer one is cut. It goes into one log line."""

_DETAILS: Final = re.compile(r';\s*details="((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")


def denied(reason: str) -> tuple[str, str]:
    """The header of an answer that a policy is behind."""
    shown = _printable(reason)[:MAX_CHARS].replace("\\", "\\\\").replace('"', '\\"')
    return PROXY_STATUS, f'ztunnel; error=http_request_denied; details="{shown}"'


def details(headers: Iterable[tuple[str, str]]) -> str:
    """What the peer says about its refusal; empty where it says nothing readable."""
    for name, value in headers:
        if name == PROXY_STATUS and (found := _DETAILS.search(value[: 4 * MAX_CHARS])):
            return _printable(_ESCAPED.sub(r"\1", found[1]))[:MAX_CHARS]
    return ""


def refusal(authority: str, response: ConnectResponse) -> ConnectRefused:
    """The error of an answer other than 200."""
    return ConnectRefused(authority, response.status, details(response.headers))


def _printable(text: str) -> str:
    """Only what a header may carry, and what cannot forge a log line."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)
