"""CORS: preflights are answered here, and responses say who may read them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from waypoint.core.message import Headers, Reply, Request, Response
from waypoint.core.objects import (
    UnusableError,
    boolean,
    duration_s,
    integer,
    mapping,
    sequence,
    string,
    strings,
)
from waypoint.core.predicate import Test, string_match

DETAILS: Final = "cors_response"
DEFAULT_MAX_AGE_S: Final = 5
"""Gateway API's default."""
ALL: Final = "*"


class CorsPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may ask, and what a preflight is told. Empty texts are left out of the answer.

    ``echo``: ``*`` cannot be said to requests with credentials, so what they ask for is named
    (Gateway API). ``swallow``: a preflight from elsewhere is answered here, not forwarded.
    """

    origins: tuple[Test, ...]
    methods: str = ""
    headers: str = ""
    expose: str = ""
    max_age: str = ""
    credentials: bool = False
    swallow: bool = False
    echo: bool = False

    def allows(self, origin: str) -> bool:
        """May pages of this origin read responses?"""
        return any(test(origin) for test in self.origins)

    def answer(self, request: Request) -> Reply | None:
        """The answer to a preflight; None where the request goes on."""
        origin = request.headers.first("origin")
        if not origin or not preflight(request):
            return None
        if not self.allows(origin):
            return Reply(200, "", "-", DETAILS) if self.swallow else None
        said = request.headers
        fields = Headers()
        self._origin(fields, origin)
        methods = self._or_asked(self.methods, said.first("access-control-request-method"))
        names = self._or_asked(self.headers, said.first("access-control-request-headers"))
        for name, value in (
            ("access-control-allow-methods", methods),
            ("access-control-allow-headers", names),
            ("access-control-max-age", self.max_age),
            ("access-control-expose-headers", self.expose),
        ):
            if value:
                fields.add(name, value)
        return Reply(200, "", "-", DETAILS, tuple(fields))

    def admission(self, request: Request) -> CorsAdmission | None:
        """What the response to a request has to say; None where its page may not read it."""
        origin = request.headers.first("origin")
        return CorsAdmission(self, origin) if origin and self.allows(origin) else None

    def _origin(self, fields: Headers, origin: str) -> None:
        fields.set("access-control-allow-origin", origin)
        if self.credentials:
            fields.set("access-control-allow-credentials", "true")

    def _or_asked(self, said: str, asked: str | None) -> str:
        return asked or said if self.echo and said == ALL and self.credentials else said


class CorsAdmission(msgspec.Struct, frozen=True):
    """A filter: tells a page of this origin that it may read the response."""

    policy: CorsPolicy
    origin: str

    def on_request(self, request: Request) -> Reply | None:
        """Requests stay as they are."""

    def on_response(self, response: Response) -> None:
        """Add what browsers look for."""
        self.policy._origin(response.headers, self.origin)
        if self.policy.expose:
            response.headers.set("access-control-expose-headers", self.policy.expose)


def preflight(request: Request) -> bool:
    """Does a browser ask whether it may send another request?"""
    return request.method == "OPTIONS" and bool(
        request.headers.first("access-control-request-method")
    )


def compile_cors(raw: Any, field: str) -> CorsPolicy | None:
    """VirtualService ``corsPolicy``. Raises UnusableError."""
    if raw is None:
        return None
    spec = mapping(raw, field)
    origins: list[Test] = []
    for index, item in enumerate(sequence(spec.get("allowOrigins"), f"{field}.allowOrigins")):
        where = f"{field}.allowOrigins[{index}]"
        if mapping(item, where).get("exact") == ALL:
            origins.append(_any)
        else:
            origins.append(string_match(item, where) or _any)
    for name in strings(spec.get("allowOrigin"), f"{field}.allowOrigin"):
        origins.append(_any if name == ALL else _is(name))
    seconds = duration_s(spec.get("maxAge"), f"{field}.maxAge")
    unmatched = string(spec.get("unmatchedPreflights"), f"{field}.unmatchedPreflights")
    if unmatched not in ("", "UNSPECIFIED", "FORWARD", "IGNORE"):
        raise UnusableError(f"{field}.unmatchedPreflights", f"{unmatched!r} is not known")
    return CorsPolicy(
        origins=tuple(origins),
        methods=",".join(strings(spec.get("allowMethods"), f"{field}.allowMethods")),
        headers=",".join(strings(spec.get("allowHeaders"), f"{field}.allowHeaders")),
        expose=",".join(strings(spec.get("exposeHeaders"), f"{field}.exposeHeaders")),
        max_age="" if spec.get("maxAge") is None else str(int(seconds or 0)),
        credentials=boolean(spec.get("allowCredentials"), f"{field}.allowCredentials"),
        swallow=unmatched == "IGNORE",
    )


def compile_gateway_cors(raw: Any, field: str) -> CorsPolicy:
    """HTTPRoute filter ``CORS`` (GEP-1767). Raises UnusableError."""
    spec = mapping(raw, field)
    origins = strings(spec.get("allowOrigins"), f"{field}.allowOrigins")
    seconds = integer(spec.get("maxAge"), f"{field}.maxAge", DEFAULT_MAX_AGE_S)
    return CorsPolicy(
        origins=tuple(_wildcard(origin) for origin in origins),
        methods=",".join(strings(spec.get("allowMethods"), f"{field}.allowMethods")),
        headers=",".join(strings(spec.get("allowHeaders"), f"{field}.allowHeaders")),
        expose=",".join(strings(spec.get("exposeHeaders"), f"{field}.exposeHeaders")),
        max_age=str(seconds),
        credentials=boolean(spec.get("allowCredentials"), f"{field}.allowCredentials"),
        swallow=True,
        echo=True,
    )


def _wildcard(origin: str) -> Test:
    """``*``, ``https://shop.example``, ``https://*.shop.example``."""
    if origin == ALL:
        return _any
    before, star, after = origin.partition(ALL)
    if not star:
        return _is(origin)
    return lambda said: (
        said.startswith(before) and said.endswith(after) and len(said) > len(before) + len(after)
    )


def _is(wanted: str) -> Test:
    return lambda origin: origin == wanted


def _any(_: str) -> bool:
    return True
