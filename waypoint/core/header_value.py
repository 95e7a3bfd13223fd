"""Values of headers that are put together for each request: ``%REQ(x)%`` and its kin (Envoy)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from waypoint.core.message import Request
from waypoint.core.objects import UnusableError

Read = Callable[[Request], str]
_OPERATOR: Final = re.compile(r"%([A-Z_]+)(?:\(([^()%]*)\))?(?::(\d{1,5}))?%")


def _header(request: Request, name: str) -> str:
    match name:
        case ":authority" | "host":
            return request.authority
        case ":method":
            return request.method
        case ":path":
            return request.target
        case ":scheme":
            return request.scheme
        case _:
            return request.headers.get(name) or ""


OPERATORS: Final[dict[str, Read]] = {
    "DOWNSTREAM_REMOTE_ADDRESS": lambda request: f"{request.remote_ip}:{request.peer.port}",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda request: str(request.remote_ip),
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": lambda request: f"{request.peer.ip}:{request.peer.port}",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": lambda request: str(request.peer.ip),
    "DOWNSTREAM_LOCAL_ADDRESS": lambda request: str(request.local),
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": lambda request: request.local.host,
    "DOWNSTREAM_LOCAL_PORT": lambda request: str(request.local.port),
    "DOWNSTREAM_PEER_URI_SAN": lambda request: str(request.peer.identity or ""),
}


class Template(msgspec.Struct, frozen=True):
    """Text with operators between it; what an operator does not find is empty."""

    parts: tuple[str | Read, ...]

    def render(self, request: Request) -> str:
        """The value for a request."""
        return "".join(part if isinstance(part, str) else part(request) for part in self.parts)


def compile_value(text: str, field: str) -> str | Template:
    """A value as it is, or a template; ``%%`` is a percent sign. Raises UnusableError."""
    if "%" not in text:
        return text
    parts: list[str | Read] = []
    position = 0
    while position < len(text):
        percent = text.find("%", position)
        if percent < 0:
            percent = len(text)
        parts.append(text[position:percent])
        position = percent
        if text.startswith("%%", position):
            parts.append("%")
            position += 2
        elif position < len(text):
            found = _OPERATOR.match(text, position)
            if found is None:
                raise UnusableError(field, f"{text!r} has a % that begins nothing; %% means it")
            parts.append(_reader(found[1], found[2], found[3], field))
            position = found.end()
    if all(isinstance(part, str) for part in parts):
        return "".join(part for part in parts if isinstance(part, str))
    return Template(tuple(part for part in parts if part))


def _reader(name: str, argument: str | None, length: str | None, field: str) -> Read:
    most = int(length) if length else None
    if name == "REQ" and argument:
        names = [one.strip().lower() for one in argument.split("?")]
        return lambda request: _first(request, names)[:most]
    read = OPERATORS.get(name)
    if read is None or argument or length:
        known = ", ".join(("REQ(header)", *OPERATORS))
        raise UnusableError(field, f"%{name}% is not known here; known are {known}")
    return read


def _first(request: Request, names: list[str]) -> str:
    return next((value for name in names if (value := _header(request, name))), "")
