"""Envoy's ``envoy.service.ratelimit.v3`` messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from waypoint.core.message import Headers, Reply
from waypoint.core.rate_limit import LIMITED, Found, GlobalLimit

METHOD: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
ERROR: Final = "rate_limiter_error"
Pairs = tuple[tuple[str, str], ...]


def question(domain: str, found: Iterable[Found]) -> bytes:
    """May a request with these descriptors pass?"""
    made = rls_pb2.RateLimitRequest(domain=domain)
    for entries, hits, override in found:
        one = made.descriptors.add()
        for key, value in entries:
            one.entries.append(ratelimit_pb2.RateLimitDescriptor.Entry(key=key, value=value))
        if hits is not None:
            one.hits_addend.value = hits
        if override is not None:
            one.limit.requests_per_unit, one.limit.unit = override
    return bytes(made.SerializeToString())


class Answer(NamedTuple):
    """The refusal, if it is one; fields for the response, and for the request upstream; what later
    filters and logs may know."""

    refusal: Reply | None
    response: Pairs = ()
    request: Pairs = ()
    noted: Mapping[str, Any] = {}


def answer(limit: GlobalLimit, raw: bytes, *, grpc: bool = False, enforced: bool = True) -> Answer:
    """What the service says. Raises ValueError where that is nothing."""
    try:
        found = rls_pb2.RateLimitResponse.FromString(raw)
    except DecodeError as error:
        raise ValueError(f"its answer cannot be read: {error}") from None
    noted = MessageToDict(found.dynamic_metadata)
    response = tuple((one.key.lower(), one.value) for one in found.response_headers_to_add)
    if limit.tell:
        response += _told(found)
    upstream = tuple((one.key.lower(), one.value) for one in found.request_headers_to_add)
    if found.overall_code != rls_pb2.RateLimitResponse.OVER_LIMIT or not enforced:
        return Answer(None, response, upstream, noted)
    headers = Headers() if limit.silent else Headers([("x-envoy-ratelimited", "true")])
    for name, value in (*response, *limit.headers):
        headers.set(name, value)
    if limit.exhausted and grpc:
        headers.add("grpc-status", "8")
    body = found.raw_body.decode(errors="replace")
    return Answer(Reply(limit.status, body, "RL", LIMITED, tuple(headers)), noted=noted)


_UNITS_S: Final = (0, 1, 60, 3600, 86_400, 30 * 86_400, 365 * 86_400, 7 * 86_400)
"""Seconds of ``RateLimit.Unit``, in the order of its numbers."""


def _told(found: rls_pb2.RateLimitResponse) -> Pairs:
    """The limit of the descriptor that has least left, with the windows of all of them
    (draft-polli-ratelimit-headers-03)."""
    known = [one for one in found.statuses if one.HasField("current_limit")]
    if not known:
        return ()
    least = min(known, key=lambda one: one.limit_remaining)
    windows = ""
    for one in known:
        limit = one.current_limit
        window_s = _UNITS_S[limit.unit] if limit.unit < len(_UNITS_S) else 0
        if window_s:
            name = f';name="{limit.name}"' if limit.name else ""
            windows += f", {limit.requests_per_unit};w={window_s}{name}"
    return (
        ("x-ratelimit-limit", f"{least.current_limit.requests_per_unit}{windows}"),
        ("x-ratelimit-remaining", str(least.limit_remaining)),
        ("x-ratelimit-reset", str(least.duration_until_reset.seconds)),
    )


def failed(limit: GlobalLimit) -> Reply:
    """The refusal of a request about which nobody answers."""
    return Reply(limit.status_on_error, "", "RLSE", ERROR)
