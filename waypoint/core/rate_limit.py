"""Rate limits: descriptors of a request, and which buckets they take tokens from (Envoy)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from waypoint.core.message import Headers, Reply, Request
from waypoint.core.providers import Address
from waypoint.core.record import Record
from waypoint.core.token_bucket import KEY_BYTES, TOLERANCE, Bucket, Slots, take

Entry = tuple[str, str]
Descriptor = tuple[Entry, ...]
Action = Callable[[Request, str], Entry | None]
"""An entry of a descriptor, for a request and the cluster that it goes to; None: there is none."""
SKIPPED: Final[Entry] = ("", "")
"""An action's entry that is left out of the descriptor, which goes on without it."""
LIMITED: Final = "request_rate_limited"


class Override(NamedTuple):
    """A limit that the request brings for the service that counts; ``unit`` as Envoy numbers it."""

    requests: int
    unit: int


class Found(NamedTuple):
    """A descriptor of a request, and how many tokens it costs (None leaves it to who counts)."""

    entries: Descriptor
    hits: int | None = None
    override: Override | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``rate_limits``: actions that make a descriptor where all of them find something.

    With ``cost`` it is for the end of the exchange (``apply_on_stream_done``), which says what it
    cost; else ``hits`` says so at the beginning.
    """

    actions: tuple[Action, ...]
    stage: int = 0
    hits: Callable[[Request], int | None] | None = None
    cost: Callable[[Record], int | None] | None = None
    override: Callable[[Request], Override | None] | None = None

    def find(self, request: Request, cluster: str) -> Found | None:
        """The descriptor of a request, if it has one."""
        entries: list[Entry] = []
        for action in self.actions:
            entry = action(request, cluster)
            if entry is None:
                return None
            if entry != SKIPPED:
                entries.append(entry)
        if not entries:
            return None
        hits = None
        if self.hits is not None and (hits := self.hits(request)) is None:
            return None  # as Envoy, where its format makes no number
        override = self.override(request) if self.override is not None else None
        return Found(tuple(entries), hits, override)


class Beside(Enum):
    """``vh_rate_limits``: when the rules of a port hold with those of a route."""

    OVERRIDE = "OVERRIDE"
    """Where the route has none."""
    INCLUDE = "INCLUDE"
    IGNORE = "IGNORE"


class Verdict(NamedTuple):
    """``limit``, ``remaining`` and ``reset_s`` are of the bucket that clients are told of."""

    passes: bool
    limit: int
    remaining: int
    reset_s: int


class LocalLimit(msgspec.Struct, frozen=True, kw_only=True):
    """One ``local_ratelimit`` filter: its own bucket, and buckets of descriptors.

    A descriptor's entry with an empty value stands for any value; each has a bucket of its own.
    """

    name: str
    bucket: Bucket | None
    enabled: float = 0.0
    enforced: float = 0.0
    descriptors: tuple[tuple[Descriptor, Bucket], ...] = ()
    rules: tuple[Rule, ...] = ()
    """Its own; without any, those of the route."""
    vh: Beside = Beside.OVERRIDE
    stage: int = 0
    status: int = 429
    headers: tuple[Entry, ...] = ()
    """Of refusals."""
    marks: tuple[Entry, ...] = ()
    """Of requests that are too many, but go on because the limit is not enforced."""
    tell: bool = False
    """Whether responses carry ``x-ratelimit-*``."""
    exhausted: bool = False
    """Whether gRPC clients are told RESOURCE_EXHAUSTED."""
    always_default: bool = True
    """Whether requests that a descriptor limits take a token of the filter's bucket, too."""


class GlobalLimit(msgspec.Struct, frozen=True, kw_only=True):
    """One ``ratelimit`` filter: a service that counts for all waypoints."""

    domain: str
    at: Address
    timeout_s: float = 0.02
    stage: int = 0
    enabled: float = 1.0
    enforced: float = 1.0
    deny_on_error: float = 0.0
    """The share of requests that are refused where the service does not answer."""
    rules: tuple[Rule, ...] = ()
    """Its own; with any, those of routes do not count."""
    status_on_error: int = 500
    status: int = 429
    headers: tuple[Entry, ...] = ()
    """Of refusals."""
    tell: bool = False
    silent: bool = False
    """Whether refusals lack ``x-envoy-ratelimited``."""
    exhausted: bool = False


class RouteLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What a route says of ``ratelimit`` filters (``RateLimitPerRoute``); empty: no more."""

    disabled: bool = False
    domain: str = ""
    vh: Beside = Beside.OVERRIDE
    rules: tuple[Rule, ...] = ()


def descriptors(
    rules: Iterable[Rule], stage: int, request: Request, cluster: str
) -> tuple[Found, ...]:
    """Those of the rules of a filter's stage."""
    made = (
        rule.find(request, cluster) for rule in rules if rule.stage == stage and rule.cost is None
    )
    return tuple(found for found in made if found is not None)


def costs(
    rules: Iterable[Rule], stage: int, request: Request, cluster: str, record: Record
) -> tuple[Found, ...]:
    """Those that are counted when the exchange has ended; what cost nothing is not."""
    found: list[Found] = []
    for rule in rules:
        if rule.stage == stage and rule.cost is not None:
            one = rule.find(request, cluster)
            hits = rule.cost(record)
            if one is not None and hits:
                found.append(one._replace(hits=hits))
    return tuple(found)


class _Taken(NamedTuple):
    bucket: Bucket
    passes: bool
    full_at_s: float


def spend(
    limit: LocalLimit, scope: str, found: Iterable[Found], slots: Slots, now_s: float
) -> Verdict | None:
    """Take the tokens that a request needs; None where no bucket concerns it.

    ``scope`` says whose buckets they are. Descriptors come first, the slowest bucket before the
    others; what one of them refuses costs no further token. Clients are told of the bucket that
    refused, else of the first (Envoy).
    """
    matched = _matched(limit.descriptors, found)
    taken: list[_Taken] = []
    for entries, bucket, hits in matched:
        taken.append(_take(slots, (limit.name, scope, entries), bucket, hits, now_s))
        if not taken[-1].passes:
            break
    refused = bool(taken) and not taken[-1].passes
    if limit.bucket is not None and not refused and (not matched or limit.always_default):
        taken.append(_take(slots, (limit.name, scope, ()), limit.bucket, 1, now_s))
    if not taken:
        return None
    told = taken[0] if taken[-1].passes else taken[-1]
    bucket, full_at_s = told.bucket, told.full_at_s
    remaining = int(bucket.left(full_at_s, now_s) + TOLERANCE)
    reset_s = math.ceil(bucket.wait_s(full_at_s, now_s))
    return Verdict(taken[-1].passes, bucket.most, remaining, reset_s)


def _take(
    slots: Slots, name: tuple[str, str, Descriptor], bucket: Bucket, hits: int, now_s: float
) -> _Taken:
    key = blake2b(repr((name, bucket)).encode(), digest_size=KEY_BYTES).digest()
    return _Taken(bucket, *take(slots, key, bucket, hits, now_s))


def _matched(
    configured: tuple[tuple[Descriptor, Bucket], ...], found: Iterable[Found]
) -> list[tuple[Descriptor, Bucket, int]]:
    if not configured:
        return []
    known: Mapping[Descriptor, Bucket] = dict(configured)
    matched: list[tuple[Descriptor, Bucket, int]] = []
    for entries, hits, _ in found:
        bucket = known.get(entries)
        if bucket is None:
            bucket = next((b for pattern, b in configured if _stands_for(pattern, entries)), None)
        if bucket is not None:
            matched.append((entries, bucket, 1 if hits is None else hits))
    return sorted(matched, key=lambda one: one[1].rate)


def _stands_for(pattern: Descriptor, entries: Descriptor) -> bool:
    return len(pattern) == len(entries) and all(
        key == name and wanted in ("", value)
        for (key, wanted), (name, value) in zip(pattern, entries, strict=True)
    )


def refusal(limit: LocalLimit, verdict: Verdict, *, grpc: bool = False) -> Reply:
    """The answer to a request too many."""
    headers = Headers()
    for name, value in (*limit.headers, *told(limit, verdict)):
        headers.set(name, value)
    if limit.exhausted and grpc:
        headers.add("grpc-status", "8")
    return Reply(limit.status, "local_rate_limited", "RL", "local_rate_limited", tuple(headers))


def told(limit: LocalLimit, verdict: Verdict) -> tuple[Entry, ...]:
    """What a response says of the limit (draft-polli-ratelimit-headers-03)."""
    if not limit.tell:
        return ()
    return (
        ("x-ratelimit-limit", str(verdict.limit)),
        ("x-ratelimit-remaining", str(verdict.remaining)),
        ("x-ratelimit-reset", str(verdict.reset_s)),
    )
