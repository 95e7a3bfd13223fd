"""Rate limits: descriptors of a request, and token buckets (Envoy's local rate limit)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from waypoint.core.message import Headers, Reply, Request
from waypoint.core.providers import Address

Entry = tuple[str, str]
Descriptor = tuple[Entry, ...]
Action = Callable[[Request, str], Entry | None]
"""An entry of a descriptor, for a request and the cluster that it goes to; None: there is none."""
LIMITED: Final = "request_rate_limited"


class Bucket(msgspec.Struct, frozen=True):
    """``tokens`` are added every ``interval_s``, up to ``most``."""

    most: int
    tokens: int
    interval_s: float


class State(msgspec.Struct):
    """A bucket as it is now, and as it was configured."""

    bucket: Bucket
    left: int
    filled_s: float


class Verdict(NamedTuple):
    """``limit``, ``remaining`` and ``reset_s`` are of the bucket that has least left."""

    passes: bool
    limit: int
    remaining: int
    reset_s: int


class LocalLimit(msgspec.Struct, frozen=True, kw_only=True):
    """One ``local_ratelimit`` filter: its own bucket, and buckets of descriptors."""

    name: str
    bucket: Bucket | None
    enabled: float = 0.0
    enforced: float = 0.0
    descriptors: tuple[tuple[Descriptor, Bucket], ...] = ()
    actions: tuple[tuple[Action, ...], ...] = ()
    status: int = 429
    headers: tuple[tuple[str, str], ...] = ()
    tell: bool = False
    """Whether responses carry ``x-ratelimit-*``."""
    silent: bool = False
    """Whether refusals lack ``x-envoy-ratelimited``."""
    exhausted: bool = False
    """Whether gRPC clients are told RESOURCE_EXHAUSTED."""
    always_default: bool = True
    """Whether requests that a descriptor limits take a token of the filter's bucket, too."""


class GlobalLimit(msgspec.Struct, frozen=True, kw_only=True):
    """One ``ratelimit`` filter: a service that counts for all waypoints."""

    domain: str
    at: Address
    timeout_s: float = 0.02
    deny_on_error: bool = False
    status_on_error: int = 500
    status: int = 429
    tell: bool = False
    silent: bool = False
    exhausted: bool = False


class Buckets:
    """All buckets of a process. Time is given, in seconds."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, Descriptor], State] = {}

    def take(self, limit: LocalLimit, found: list[Descriptor], now_s: float) -> Verdict | None:
        """Take a token where the request needs one; None where no bucket concerns it."""
        known = dict(limit.descriptors)
        matched = [(one, known[one]) for one in found if one in known]
        wanted: list[tuple[Descriptor, Bucket]] = matched
        if limit.bucket is not None and (not matched or limit.always_default):
            wanted = [*matched, ((), limit.bucket)]
        if not wanted:
            return None
        states = [
            (self._filled((limit.name, key), bucket, now_s), bucket) for key, bucket in wanted
        ]
        passes = True
        for state, _ in states:  # descriptors come first; what they refuse costs no other token
            if state.left < 1:
                passes = False
                break
            state.left -= 1
        state, bucket = min(states, key=lambda one: one[0].left)
        reset_s = max(0.0, state.filled_s + bucket.interval_s - now_s)
        return Verdict(passes, bucket.most, state.left, math.ceil(reset_s))

    def _filled(self, key: tuple[str, Descriptor], bucket: Bucket, now_s: float) -> State:
        state = self._states.get(key)
        if state is None or state.bucket != bucket:
            state = self._states[key] = State(bucket, bucket.most, now_s)
        times = int((now_s - state.filled_s) / bucket.interval_s)
        if times > 0:
            state.left = min(bucket.most, state.left + times * bucket.tokens)
            state.filled_s += times * bucket.interval_s
        return state

    def keep(self, names: frozenset[str]) -> None:
        """Forget the buckets of limits that are configured no more."""
        for key in [key for key in self._states if key[0] not in names]:
            del self._states[key]


def descriptors(
    actions: tuple[tuple[Action, ...], ...], request: Request, cluster: str
) -> list[Descriptor]:
    """One for each set of actions all of which find something."""
    found: list[Descriptor] = []
    for one in actions:
        entries = [action(request, cluster) for action in one]
        if entries and all(entry is not None for entry in entries):
            found.append(tuple(entry for entry in entries if entry is not None and entry[0]))
    return found


def refusal(limit: LocalLimit, verdict: Verdict) -> Reply:
    """The answer to a request too many."""
    headers = Headers() if limit.silent else Headers([("x-envoy-ratelimited", "true")])
    for name, value in (*limit.headers, *told(limit, verdict)):
        headers.set(name, value)
    if limit.exhausted:
        headers.add("grpc-status", "8")
    return Reply(limit.status, "local_rate_limited", "RL", "local_rate_limited", tuple(headers))


def told(limit: LocalLimit, verdict: Verdict) -> tuple[tuple[str, str], ...]:
    """What a response says of the limit (draft-polli-ratelimit-headers-03)."""
    if not limit.tell:
        return ()
    return (
        ("x-ratelimit-limit", str(verdict.limit)),
        ("x-ratelimit-remaining", str(verdict.remaining)),
        ("x-ratelimit-reset", str(verdict.reset_s)),
    )
