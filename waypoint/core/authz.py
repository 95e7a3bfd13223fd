"""The L7 verdict: DENY before ALLOW, and which rule of which policy decided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ambient.api.service import Service
from waypoint.core.authz_rules import Effect, Policy
from waypoint.core.message import Request
from waypoint.core.place import Place


class Deciding(NamedTuple):
    """A rule that matched."""

    policy: str
    rule: int

    def __str__(self) -> str:
        namespace, _, name = self.policy.partition("/")
        return f"ns[{namespace}]-policy[{name}]-rule[{self.rule}]"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a request may pass, and why.

    ``dry_run_denials`` are policies that would have refused, were they not dry runs.
    """

    allowed: bool
    reason: str
    by: Deciding | None = None
    dry_run_denials: tuple[str, ...] = ()

    @property
    def detail(self) -> str:
        """The deciding rule as Envoy names it, or ``none``."""
        return "none" if self.by is None else str(self.by)


class PolicySet(msgspec.Struct, frozen=True):
    """The policies that hold for one destination, in the order in which they are asked."""

    denying: tuple[Policy, ...] = ()
    allowing: tuple[Policy, ...] = ()
    dry_run: tuple[Policy, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.denying or self.allowing or self.dry_run)


def select(policies: Iterable[Policy], service: Service | None, place: Place) -> PolicySet:
    """The policies that hold for a service, or for a pod's own address."""
    attached = sorted(
        (policy for policy in policies if policy.attached_to(service, place)),
        key=lambda policy: (policy.effect is not Effect.CUSTOM, policy.key),
    )
    real = [policy for policy in attached if not policy.dry_run]
    return PolicySet(
        tuple(policy for policy in real if policy.effect.denies),
        tuple(policy for policy in real if policy.effect is Effect.ALLOW),
        tuple(policy for policy in attached if policy.dry_run),
    )


def decide(policies: PolicySet, request: Request, *, http: bool = True) -> Verdict:
    """Judge a request, or with ``http=False`` a raw TCP connection.

    A denying rule that matches refuses. Without ALLOW policies everything else passes; with them
    one of their rules has to match.
    """
    if not policies:
        return _UNRESTRICTED
    would_deny = _dry_run(policies, request, http)
    denied = _first(policies.denying, request, http)
    if denied is not None:
        return Verdict(
            allowed=False,
            reason=f"denied by {denied.policy}",
            by=denied,
            dry_run_denials=would_deny,
        )
    if not policies.allowing:
        reason = "no DENY policy matched" if policies.denying else "no policy applies"
        return Verdict(allowed=True, reason=reason, dry_run_denials=would_deny)
    allowed = _first(policies.allowing, request, http)
    if allowed is not None:
        return Verdict(
            allowed=True,
            reason=f"allowed by {allowed.policy}",
            by=allowed,
            dry_run_denials=would_deny,
        )
    names = ", ".join(policy.key for policy in policies.allowing)
    return Verdict(
        allowed=False,
        reason=f"no ALLOW policy matched (of {names})",
        dry_run_denials=would_deny,
    )


_UNRESTRICTED = Verdict(allowed=True, reason="no policy applies")


def _first(policies: tuple[Policy, ...], request: Request, http: bool) -> Deciding | None:
    for policy in policies:
        for rule in policy.rules:
            if http:
                matched = rule.failing(request) is None
            else:
                matched = rule.matches_connection(request, policy.effect)
            if matched:
                return Deciding(policy.key, rule.index)
    return None


def _dry_run(policies: PolicySet, request: Request, http: bool) -> tuple[str, ...]:
    """Dry-run policies that would refuse; a dry-run ALLOW refuses where none of its rules match."""
    refusing: list[str] = []
    for policy in policies.dry_run:
        hit = _first((policy,), request, http)
        if (policy.effect.denies and hit) or (policy.effect is Effect.ALLOW and hit is None):
            refusing.append(policy.key)
    return tuple(refusing)


class NearMiss(NamedTuple):
    """A rule that did not match, and the field that kept it from matching."""

    policy: str
    effect: str
    rule: int
    field: str


def near_misses(policies: PolicySet, request: Request) -> tuple[NearMiss, ...]:
    """For explanations: every rule that was asked and did not match, and why."""
    return tuple(
        NearMiss(policy.key, policy.effect.value, rule.index, field)
        for policy in (*policies.denying, *policies.allowing)
        for rule in policy.rules
        if (field := rule.failing(request)) is not None
    )
