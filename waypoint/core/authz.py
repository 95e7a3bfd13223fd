"""The L7 verdict: DENY before ALLOW, and which rule of which policy decided."""

from __future__ import annotations

from collections.abc import Container, Iterable
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


class DryRun(NamedTuple):
    """What a policy that is only tried would do."""

    policy: str
    effect: str
    denies: bool
    by: Deciding | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a request may pass, and why. ``audited``: a rule wants the request to be logged."""

    allowed: bool
    reason: str
    by: Deciding | None = None
    dry_runs: tuple[DryRun, ...] = ()
    audited: Deciding | None = None

    @property
    def dry_run_denials(self) -> tuple[str, ...]:
        """Policies that would have refused, were they not dry runs."""
        return tuple(one.policy for one in self.dry_runs if one.denies)

    @property
    def detail(self) -> str:
        """The deciding rule as Envoy names it, or ``none``."""
        return "none" if self.by is None else str(self.by)


class PolicySet(msgspec.Struct, frozen=True):
    """The policies that hold for one destination, in the order in which they are asked."""

    custom: tuple[Policy, ...] = ()
    auditing: tuple[Policy, ...] = ()
    denying: tuple[Policy, ...] = ()
    allowing: tuple[Policy, ...] = ()
    dry_run: tuple[Policy, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.denying or self.allowing or self.dry_run or self.custom or self.auditing)

    def asks_for(self, attribute: str) -> bool:
        """Does any rule have a condition (``when``) on this attribute?"""
        every = (*self.custom, *self.auditing, *self.denying, *self.allowing, *self.dry_run)
        clauses = (clause for policy in every for rule in policy.rules for clause in rule.clauses)
        tests = (test for clause in clauses for group in clause for test in group)
        return any(test.field == f"when {attribute}" for test in tests)


def select(
    policies: Iterable[Policy],
    service: Service | None,
    place: Place,
    providers: Container[str] = (),
) -> PolicySet:
    """The policies that hold for a service, or for a pod's own address.

    A CUSTOM policy without one of the ``providers`` to ask refuses what it matches.
    """
    attached = sorted(
        (policy for policy in policies if policy.attached_to(service, place)),
        key=lambda policy: (policy.effect is not Effect.CUSTOM, policy.key),
    )

    def of(*effects: Effect, dry_run: bool = False) -> tuple[Policy, ...]:
        return tuple(one for one in attached if one.effect in effects and one.dry_run is dry_run)

    asking = tuple(one for one in attached if one.effect is Effect.CUSTOM)
    orphans = tuple(one for one in asking if one.provider not in providers and not one.dry_run)
    return PolicySet(
        custom=tuple(one for one in asking if one.provider in providers),
        auditing=of(Effect.AUDIT),
        denying=(*orphans, *of(Effect.DENY)),
        allowing=of(Effect.ALLOW),
        dry_run=of(Effect.DENY, Effect.ALLOW, dry_run=True),
    )


class Question(NamedTuple):
    """A provider to ask, and the rule that wants it. ``dry_run``: its answer only counts."""

    provider: str
    by: Deciding
    dry_run: bool


def questions(policies: PolicySet, request: Request, *, http: bool = True) -> tuple[Question, ...]:
    """The providers to ask before anything else judges, each once, by name."""
    if not policies.custom:
        return ()
    found: dict[str, Question] = {}
    for policy in policies.custom:
        by = _first((policy,), request, http)
        known = found.get(policy.provider)
        if by is not None and (known is None or (known.dry_run and not policy.dry_run)):
            found[policy.provider] = Question(policy.provider, by, policy.dry_run)
    return tuple(found[name] for name in sorted(found))


def decide(policies: PolicySet, request: Request, *, http: bool = True) -> Verdict:
    """Judge a request, or with ``http=False`` a raw TCP connection.

    A denying rule that matches refuses. Without ALLOW policies everything else passes; with them
    one of their rules has to match. ``questions`` come before.
    """
    shadow = _dry_run(policies, request, http) if policies.dry_run else ()
    audited = _first(policies.auditing, request, http) if policies.auditing else None
    denied = _first(policies.denying, request, http) if policies.denying else None
    if denied is not None:
        allowed, reason, by = False, f"denied by {denied.policy}", denied
        return _verdict(allowed, reason, by, shadow, audited)
    if not policies.allowing:
        found = _NOT_DENIED if policies.denying else _UNRESTRICTED
        if not shadow and audited is None:
            return found
        return _verdict(True, found.reason, None, shadow, audited)
    by_rule = _first(policies.allowing, request, http)
    if by_rule is not None:
        return _verdict(True, f"allowed by {by_rule.policy}", by_rule, shadow, audited)
    names = ", ".join(policy.key for policy in policies.allowing)
    return _verdict(False, f"no ALLOW policy matched (of {names})", None, shadow, audited)


def _verdict(
    allowed: bool,
    reason: str,
    by: Deciding | None,
    shadow: tuple[DryRun, ...],
    audited: Deciding | None,
) -> Verdict:
    return Verdict(allowed=allowed, reason=reason, by=by, dry_runs=shadow, audited=audited)


_UNRESTRICTED = Verdict(allowed=True, reason="no policy applies")
_NOT_DENIED = Verdict(allowed=True, reason="no DENY policy matched")


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


def _dry_run(policies: PolicySet, request: Request, http: bool) -> tuple[DryRun, ...]:
    """What each dry-run policy would do; an ALLOW refuses where none of its rules match."""
    found: list[DryRun] = []
    for policy in policies.dry_run:
        by = _first((policy,), request, http)
        denies = (policy.effect is Effect.DENY) == (by is not None)
        found.append(DryRun(policy.key, policy.effect.value, denies, by))
    return tuple(found)


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
