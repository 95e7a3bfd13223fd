"""External authorization: the check that a provider gets, and what its answer means (Envoy)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from waypoint.core.filters import HeaderEdits
from waypoint.core.message import Headers, Reply, Request
from waypoint.core.providers import ExtAuthz

DENIED: Final = "ext_authz_denied"
ERROR: Final = "ext_authz_error"
FLAG: Final = "UAEX"
_ALWAYS_ASKED: Final = frozenset(("host", "method", "path", "content-length", "authorization"))
_ALWAYS_TOLD: Final = frozenset(
    ("path", "status", "content-length", "www-authenticate", "location")
)
_FRAMING: Final = frozenset(
    ("connection", "content-length", "date", "host", "keep-alive", "server", "te", "trailer",
     "transfer-encoding", "upgrade", "proxy-connection")
)  # fmt: skip
REMOVE: Final = "x-envoy-auth-headers-to-remove"
PARTIAL: Final = "x-envoy-auth-partial-body"
ALL_HEADERS: Final = ("*",)
_NOTHING: Final = "\0"
Pairs = tuple[tuple[str, str], ...]
TOO_LARGE: Final = Reply(413, "Payload Too Large", "-", "request_payload_too_large")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider decided. ``refusal`` is the client's answer; None lets the request go on.

    The other fields edit a request that goes on: ``put`` overwrites, ``add`` appends to fields
    that are there, ``remove`` deletes; ``response`` edits the response.
    """

    refusal: Reply | None = None
    put: Pairs = ()
    add: Pairs = ()
    remove: tuple[str, ...] = ()
    response: tuple[HeaderEdits, ...] = ()
    put_query: Pairs = ()
    remove_query: tuple[str, ...] = ()
    noted: Mapping[str, Any] = {}

    def apply(self, request: Request) -> None:
        """Edit a request that goes on."""
        headers = request.headers
        for name, value in self.put:
            if name == "host" or name == ":authority":
                request.authority = value
            elif not name.startswith(":"):
                headers.set(name, value)
        for name, value in self.add:
            if name in headers:
                headers.add(name, value)
        headers.remove(*(name for name in self.remove if name not in (":authority", "host")))
        if self.put_query or self.remove_query:
            request.target = _with_query(request, self.put_query, self.remove_query)
        if self.noted:
            request.metadata["envoy.filters.http.ext_authz"] = self.noted


def _with_query(request: Request, put: Pairs, remove: tuple[str, ...]) -> str:
    gone = {*remove, *(name for name, _ in put)}
    left = [one for one in request.query.split("&") if one and one.partition("=")[0] not in gone]
    query = "&".join([*left, *(f"{name}={value}" for name, value in put)])
    return f"{request.path}?{query}" if query else request.path


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Exact, ``prefix*`` or ``*suffix``; names are in lower case."""
    return any(
        name.startswith(one[:-1])
        if one.endswith("*")
        else name.endswith(one[1:])
        if one.startswith("*")
        else name == one
        for one in patterns
    )


def http_check(provider: ExtAuthz, request: Request, *, partial: bool = False) -> Request:
    """The request that an HTTP provider gets."""
    wanted = (*_ALWAYS_ASKED, *provider.include_headers)
    headers = Headers(pair for pair in request.headers if matches(pair[0], wanted))
    for name, value in provider.additional_headers:
        headers.set(name, value)
    if provider.body is not None and request.has_body:
        headers.set(PARTIAL, "true" if partial else "false")
    headers.remove("content-length")  # follows from the body
    return Request(
        method=request.method,
        target=provider.path_prefix + request.target,
        authority=request.authority,
        headers=headers,
        peer=request.peer,
        local=request.local,
        scheme=request.scheme,
    )


def http_decision(provider: ExtAuthz, status: int, headers: Headers, body: bytes) -> Decision:
    """What an HTTP provider's answer means: 200 lets pass, 5xx is a failure, the rest refuses."""
    if status >= 500:
        return failed(provider)
    if status != 200:
        asked = provider.downstream_on_deny
        told = (*_ALWAYS_TOLD, *asked)
        kept = tuple(
            (name, value)
            for name, value in headers
            if name not in _FRAMING
            and name != REMOVE  # for us
            and (not asked or matches(name, told))
        )
        return Decision(refusal=Reply(status, _text(body), FLAG, DENIED, kept))
    removed = headers.get(REMOVE) or ""
    return Decision(
        put=_chosen(headers, provider.upstream_on_allow),
        remove=tuple(name.strip().lower() for name in removed.split(",") if name.strip()),
        response=_appended(_chosen(headers, provider.downstream_on_allow)),
    )


def _chosen(headers: Headers, patterns: tuple[str, ...]) -> Pairs:
    """Line by line: several cookies cannot share one. ``*`` is all but those that speak of the
    answer's own content."""
    own = "content-" if patterns == ALL_HEADERS else _NOTHING
    return tuple(
        (name, value)
        for name, value in headers
        if name not in _FRAMING and not name.startswith(own) and matches(name, patterns)
    )


def _appended(pairs: Pairs) -> tuple[HeaderEdits, ...]:
    return (HeaderEdits(add=pairs),) if pairs else ()


def failed(provider: ExtAuthz) -> Decision:
    """No answer, or none that counts."""
    if provider.fail_open:
        return Decision()
    return Decision(refusal=Reply(provider.status_on_error, "", FLAG, ERROR))


def denial(status: int, headers: Pairs, body: str) -> Decision:
    """A gRPC provider's refusal."""
    kept = tuple((name, value) for name, value in headers if name not in _FRAMING)
    return Decision(refusal=Reply(status or 403, body, FLAG, DENIED, kept))


def _text(body: bytes) -> str:
    return body.decode(errors="replace")
