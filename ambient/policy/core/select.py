"""Which policies apply to a workload, compiled and sorted by what they do.

Only policies that select the workload are in its PolicySet, so a decision never pays for others.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ambient.api.policy import Action, Authorization, Scope
from ambient.policy.core.match import CompiledMatch, Facts, compile_match, matches

CompiledGroup = tuple[tuple[CompiledMatch, ...], ...]


class CompiledPolicy(msgspec.Struct, frozen=True, eq=False):
    """A policy with its tests."""

    key: str
    policy: Authorization
    groups: tuple[CompiledGroup, ...]

    def matches(self, facts: Facts) -> bool:
        """Groups are OR-ed; a policy without groups never matches."""
        # Plain loops: a generator for each level would double the time of a verdict.
        for group in self.groups:
            for clause in group:
                if not clause_matches(clause, facts):
                    break
            else:
                return True
        return False


def group_matches(group: CompiledGroup, facts: Facts) -> bool:
    """Clauses are AND-ed; a group without clauses matches everything."""
    return all(clause_matches(clause, facts) for clause in group)


def clause_matches(clause: tuple[CompiledMatch, ...], facts: Facts) -> bool:
    """Matches are OR-ed; a clause without matches has nothing to say against."""
    for match in clause:
        if matches(match, facts):
            return True
    return not clause


class PolicySet(msgspec.Struct, frozen=True, eq=False):
    """The policies of one workload, by action; ``missing`` are named by it but not known here."""

    deny: tuple[CompiledPolicy, ...] = ()
    allow: tuple[CompiledPolicy, ...] = ()
    dry_run_deny: tuple[CompiledPolicy, ...] = ()
    dry_run_allow: tuple[CompiledPolicy, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[CompiledPolicy, ...]:
        """Every policy, in the order of evaluation."""
        return self.dry_run_deny + self.deny + self.dry_run_allow + self.allow


def compile_policy(policy: Authorization) -> CompiledPolicy:
    """Prepare a policy for many decisions."""
    return CompiledPolicy(
        policy.key,
        policy,
        tuple(
            tuple(tuple(compile_match(match) for match in clause) for clause in group)
            for group in policy.groups
        ),
    )


def policy_set(policies: Iterable[CompiledPolicy], missing: Iterable[str] = ()) -> PolicySet:
    """Sort selected policies; by key inside each kind, so that evidence does not depend on luck."""
    ordered = sorted(policies, key=lambda compiled: compiled.key)

    def of(action: Action, dry_run: bool) -> tuple[CompiledPolicy, ...]:
        return tuple(
            compiled
            for compiled in ordered
            if compiled.policy.action is action and compiled.policy.dry_run is dry_run
        )

    return PolicySet(
        deny=of(Action.DENY, False),
        allow=of(Action.ALLOW, False),
        dry_run_deny=of(Action.DENY, True),
        dry_run_allow=of(Action.ALLOW, True),
        missing=tuple(sorted(missing)),
    )


def selects(policy: Authorization, namespace: str, names: Iterable[str]) -> bool:
    """Does ``policy`` apply to a workload of ``namespace`` that refers to policies ``names``?"""
    match policy.scope:
        case Scope.GLOBAL:
            return True
        case Scope.NAMESPACE:
            return policy.namespace == namespace
        case Scope.WORKLOAD_SELECTOR:
            return policy.key in names


def select(policies: Iterable[Authorization], namespace: str, names: Iterable[str]) -> PolicySet:
    """The PolicySet of one workload out of all ``policies``; for occasional use."""
    known = list(policies)
    wanted = frozenset(names)
    chosen = (compile_policy(p) for p in known if selects(p, namespace, wanted))
    return policy_set(chosen, wanted - {policy.key for policy in known})
