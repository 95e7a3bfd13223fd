"""Why each policy did or did not match a connection, for ``ambientctl why``."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ambient.api.policy import Action, Authorization
from ambient.policy.core.match import (
    CompiledMatch,
    Connection,
    Facts,
    FieldTest,
    actual,
    facts_of,
    wanted_text,
)
from ambient.policy.core.select import (
    CompiledPolicy,
    PolicySet,
    clause_matches,
    compile_policy,
    group_matches,
)


class Miss(msgspec.Struct, frozen=True):
    """A clause that kept a rule from matching. ``rule`` and ``clause`` count from 1, as in YAML.

    ``field`` is empty where a match sets no field at all and so can never match.
    """

    rule: int
    clause: int
    field: str
    actual: str
    wanted: str

    def __str__(self) -> str:
        if not self.field:
            return f"rule {self.rule}: a match without conditions never matches"
        name = self.field.removeprefix("not_").replace("_", " ").removesuffix("s")
        verb = "must not be" if self.field.startswith("not_") else "must be"
        return f"rule {self.rule}: {name} is {self.actual}, {verb} {self.wanted}"


class Explanation(msgspec.Struct, frozen=True):
    """How one policy judged: the rule that matched (from 1; 0: none) and what others missed."""

    policy: str
    action: Action
    dry_run: bool
    matched: bool
    rule: int = 0
    misses: tuple[Miss, ...] = ()

    def __str__(self) -> str:
        label = f"{self.action.name} {self.policy}" + (" (dry run)" if self.dry_run else "")
        if self.matched:
            return f"{label}: rule {self.rule} matched"
        if not self.misses:
            return f"{label}: has no rules, so it never matches"
        return f"{label}: " + "; ".join(map(str, self.misses))


def explain(
    policies: PolicySet | Iterable[Authorization], connection: Connection
) -> tuple[Explanation, ...]:
    """Judge every policy alone, in the order of evaluation, with the clauses that missed."""
    facts = facts_of(connection)
    compiled = policies.all if isinstance(policies, PolicySet) else map(compile_policy, policies)
    return tuple(_explain(policy, facts) for policy in compiled)


def nearest_miss(policies: PolicySet, connection: Connection) -> str:
    """Of the rules that could have allowed a connection, the one that missed by the least."""
    facts = facts_of(connection)
    best: tuple[int, str] | None = None
    for compiled in policies.allow:
        by_rule: dict[int, list[Miss]] = {}
        for miss in _misses(compiled, facts):
            by_rule.setdefault(miss.rule, []).append(miss)
        for misses in by_rule.values():
            if best is None or len(misses) < best[0]:
                best = len(misses), f"{compiled.key} " + ", ".join(map(str, misses))
    return best[1] if best else ""


def _explain(compiled: CompiledPolicy, facts: Facts) -> Explanation:
    policy = compiled.policy
    rule = next((n for n, group in enumerate(compiled.groups, 1) if group_matches(group, facts)), 0)
    misses = () if rule else tuple(_misses(compiled, facts))
    return Explanation(policy.key, policy.action, policy.dry_run, bool(rule), rule, misses)


def _misses(compiled: CompiledPolicy, facts: Facts) -> Iterable[Miss]:
    for rule, group in enumerate(compiled.groups, 1):
        for number, clause in enumerate(group, 1):
            if clause_matches(clause, facts):
                continue
            # Of several alternatives the one that came closest says most.
            tests = min((_failed(match, facts) for match in clause), key=lambda t: (not t, len(t)))
            if not tests:
                yield Miss(rule, number, "", "", "")
            for test in tests:
                wanted = wanted_text(test.wanted)
                yield Miss(rule, number, test.field, actual(test.field, facts), wanted)


def _failed(match: CompiledMatch, facts: Facts) -> tuple[FieldTest, ...]:
    return tuple(test for test in match if not test.passes(facts))
