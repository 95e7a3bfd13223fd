"""Session persistence (GEP-1619): a client comes back to the endpoint that it began with."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, NamedTuple

import msgspec

from waypoint.core.hash_policy import cookie_value
from waypoint.core.message import Request, Response
from waypoint.core.objects import UnusableError, duration_s, mapping, string

DEFAULT_NAME: Final = "session"
LONGEST_TOKEN: Final = 256


class Visit(NamedTuple):
    """What a client shows: the endpoint (``ip:port``), and when its session began."""

    address: str
    begun_s: int


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """How a session is named and how long it lasts; times are seconds of Unix time."""

    name: str = DEFAULT_NAME
    header: bool = False
    absolute_s: float | None = None
    idle_s: float | None = None
    permanent: bool = False

    def visit(self, request: Request, now_s: float) -> Visit | None:
        """The session that a request belongs to; None where there is none, or none any more."""
        if self.header:
            token = request.headers.first(self.name.lower()) or ""
        else:
            token = cookie_value(request.headers.get("cookie"), self.name)
        read = _read(token)
        if read is None:
            return None
        visit, used_s = read
        if self.absolute_s is not None and now_s - visit.begun_s >= self.absolute_s:
            return None
        if self.idle_s is not None and now_s - used_s >= self.idle_s:
            return None
        return visit

    def tell(self, response: Response, address: str, visit: Visit | None, now_s: float) -> None:
        """Let the client know its endpoint, where it does not know it already."""
        same = visit is not None and visit.address == address
        if same and self.idle_s is None:
            return
        begun_s = visit.begun_s if visit is not None and same else int(now_s)
        raw = f"{address}|{begun_s}|{int(now_s)}"
        token = base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")
        if self.header:
            response.headers.set(self.name.lower(), token)
            return
        parts = [f"{self.name}={token}", "Path=/", "HttpOnly"]
        if self.permanent and self.absolute_s is not None:
            parts.insert(1, f"Max-Age={max(0, int(begun_s + self.absolute_s - now_s))}")
        response.headers.add("set-cookie", "; ".join(parts))


def _read(token: str) -> tuple[Visit, int] | None:
    if not token or len(token) > LONGEST_TOKEN or not token.isascii():
        return None
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        address, begun, used = raw.split("|")
        return Visit(address, int(begun)), int(used)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def compile_session(raw: Any, field: str) -> Session | None:
    """``sessionPersistence`` of a rule. Raises UnusableError."""
    if raw is None:
        return None
    spec = mapping(raw, field)
    kind = string(spec.get("type"), f"{field}.type", "Cookie")
    if kind not in ("Cookie", "Header"):
        raise UnusableError(f"{field}.type", f"{kind!r} is not Cookie or Header")
    cookie = mapping(spec.get("cookieConfig"), f"{field}.cookieConfig")
    lifetime = string(cookie.get("lifetimeType"), f"{field}.cookieConfig", "Session")
    absolute_s = duration_s(spec.get("absoluteTimeout"), f"{field}.absoluteTimeout")
    if lifetime == "Permanent" and absolute_s is None:
        raise UnusableError(f"{field}.absoluteTimeout", "required for a permanent cookie")
    return Session(
        name=string(spec.get("sessionName"), f"{field}.sessionName") or DEFAULT_NAME,
        header=kind == "Header",
        absolute_s=absolute_s,
        idle_s=duration_s(spec.get("idleTimeout"), f"{field}.idleTimeout"),
        permanent=lifetime == "Permanent",
    )
