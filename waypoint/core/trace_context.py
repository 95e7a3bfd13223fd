"""Trace contexts: read from a request, and written for the next hop (W3C Trace Context, B3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from waypoint.core.message import Headers

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_HEX: Final = re.compile(r"[0-9a-f]+")
TRACE_ID: Final = 32
SPAN_ID: Final = 16
B3_SINGLE: Final = "b3"
B3_MULTI: Final = (
    "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags",
)  # fmt: skip
FORCE: Final = "x-envoy-force-trace"
CLIENT_TRACE: Final = "x-client-trace-id"
_PACKED_AT: Final = 14
"""Where a request id holds the decision of the first hop (Envoy): a UUID's version."""
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SAMPLED: Final = "9ab"
"""Sampled, forced by a server, forced by a client; ``4`` is no trace."""


class Context(NamedTuple):
    """Whose child a request is; ``sampled`` None where the caller has not decided."""

    trace_id: str
    span_id: str
    sampled: bool | None
    b3: bool = False


class Trace(NamedTuple):
    """A request's own span."""

    trace_id: str
    span_id: str
    parent_id: str
    sampled: bool


def extract(headers: Headers) -> Context | None:
    """The caller's context: W3C before B3; None where there is none that can be read."""
    return _w3c(headers) or _b3(headers)


def _w3c(headers: Headers) -> Context | None:
    found = _TRACEPARENT.fullmatch((headers.first("traceparent") or "").strip())
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    if set(found[2]) == {"0"} or set(found[3]) == {"0"}:
        return None
    return Context(found[2], found[3], bool(int(found[4], 16) & 1))


def _b3(headers: Headers) -> Context | None:
    single = headers.first(B3_SINGLE)
    if single is not None:
        parts = single.split("-")
        if len(parts) == 1:
            return Context("", "", _flag(parts[0]), True)
        sampled = _flag(parts[2]) if len(parts) > 2 else None
        return _ids(parts[0], parts[1], sampled)
    if headers.first("x-b3-flags") == "1":
        sampled = True
    else:
        sampled = _flag(headers.first("x-b3-sampled") or "")
    trace, span = headers.first("x-b3-traceid"), headers.first("x-b3-spanid")
    if trace is None or span is None:
        return None if sampled is None else Context("", "", sampled, True)
    return _ids(trace, span, sampled)


def _ids(trace: str, span: str, sampled: bool | None) -> Context | None:
    trace, span = trace.lower(), span.lower()
    good = len(trace) in (16, TRACE_ID) and len(span) == SPAN_ID
    if not good or not _HEX.fullmatch(trace + span) or not trace.strip("0"):
        return None
    return Context(trace.rjust(TRACE_ID, "0"), span, sampled, True)


def _flag(text: str) -> bool | None:
    return {"1": True, "d": True, "true": True, "0": False, "false": False}.get(text)


def begin(
    headers: Headers,
    *,
    sampling: float,
    by_request_id: bool,
    known_id: bool,
    draw: Callable[[], float],
    new_id: Callable[[int], str],
) -> Trace:
    """The request's span, with the decision whether it is reported.

    A caller's decision holds. Else requests are traced by force, by their request id (only if
    ``known_id``: the client brought it), or by lot: ``sampling`` per cent. ``new_id`` makes ids of
    so many hexadecimal digits. The decision is noted in the request id.
    """
    context = extract(headers)
    request_id = headers.first("x-request-id") or ""
    packed = _packed(request_id) if by_request_id and known_id else None
    sampled = context.sampled if context is not None else None
    if sampled is None:
        forced = FORCE in headers or CLIENT_TRACE in headers
        sampled = forced or (packed if packed is not None else draw() * 100 < sampling)
    if by_request_id and packed is None and _UUID.fullmatch(request_id):
        mark = "9" if sampled else "4"
        headers.set("x-request-id", request_id[:_PACKED_AT] + mark + request_id[_PACKED_AT + 1 :])
    known = context is not None and context.trace_id
    trace_id = context.trace_id if context is not None and known else new_id(TRACE_ID)
    parent = context.span_id if context is not None and known else ""
    return Trace(trace_id, new_id(SPAN_ID), parent, sampled)


def _packed(request_id: str) -> bool | None:
    """The decision in a request id; None where it holds none."""
    if not _UUID.fullmatch(request_id):
        return None
    mark = request_id[_PACKED_AT]
    return True if mark in _SAMPLED else None


def inject(headers: Headers, trace: Trace, *, w3c: bool, b3: bool) -> None:
    """Make the next hop a child of this span. B3 is also written where the caller spoke it."""
    spoken = B3_SINGLE in headers or any(name in headers for name in B3_MULTI)
    if w3c:
        flags = "01" if trace.sampled else "00"
        headers.set("traceparent", f"00-{trace.trace_id}-{trace.span_id}-{flags}")
    if not b3 and not spoken:
        return
    headers.remove(B3_SINGLE, *B3_MULTI)
    headers.add("x-b3-traceid", trace.trace_id)
    headers.add("x-b3-spanid", trace.span_id)
    if trace.parent_id:
        headers.add("x-b3-parentspanid", trace.parent_id)
    headers.add("x-b3-sampled", "1" if trace.sampled else "0")
