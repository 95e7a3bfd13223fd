"""What of a request is hashed, so that equal requests reach the same endpoint."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import xxhash

from waypoint.core.message import Request

MAX_COOKIES: Final = 4096
"""Bytes of Cookie that are looked at."""


class HashKey(NamedTuple):
    """The hash (64 bits), and a cookie that the client is given with the response, if any."""

    value: int
    set_cookie: str = ""


class HashPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one source of a hash. ``ttl_s`` None: a cookie that is missing is not made;
    0: it lasts as long as the browser's session."""

    header: str = ""
    query: str = ""
    source_ip: bool = False
    cookie: str = ""
    path: str = ""
    ttl_s: float | None = None
    attributes: tuple[tuple[str, str], ...] = ()

    def key(self, request: Request) -> HashKey | None:
        """The request's hash; None where it has nothing to hash."""
        if self.header:
            values = sorted(value for name, value in request.headers if name == self.header)
            return HashKey(hash64(",".join(values))) if values else None
        if self.query:
            value = request.query_value(self.query)
            return None if value is None else HashKey(hash64(value))
        if self.source_ip:
            return HashKey(hash64(str(request.remote_ip)))
        return self._cookie(request)

    def _cookie(self, request: Request) -> HashKey | None:
        said = cookie_value(request.headers.get("cookie"), self.cookie)
        if said:
            return HashKey(hash64(said))
        if self.ttl_s is None:
            return None
        peer = request.peer
        made = f"{hash64(f'{peer.ip}:{peer.port}{request.local}'):016x}"
        return HashKey(hash64(made), self._set_cookie(made))

    def _set_cookie(self, value: str) -> str:
        parts = [f'{self.cookie}="{value}"']
        if self.ttl_s:
            parts.append(f"Max-Age={int(self.ttl_s)}")
        if self.path:
            parts.append(f"Path={self.path}")
        parts += [f"{name}={text}" if text else name for name, text in self.attributes]
        return "; ".join([*parts, "HttpOnly"])


def hash64(text: str) -> int:
    """xxHash64 with seed 0, as Envoy's."""
    return xxhash.xxh64_intdigest(text.encode())


def cookie_value(header: str | None, name: str) -> str:
    """The value of a cookie without its quotes; empty where there is none."""
    for pair in (header or "")[:MAX_COOKIES].replace(",", ";").split(";"):
        key, equals, value = pair.strip().partition("=")
        if equals and key == name:
            return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return ""
