"""AuthorizationPolicy into rules: each rule is groups of named tests of a request.

A field that cannot be enforced makes the rule strict: an ALLOW rule with it never matches, a DENY
rule matches as if the field were met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import Service
from waypoint.core.attachment import TargetRef, holds_for, read_targets
from waypoint.core.attributes import AttributeTest, attribute_test
from waypoint.core.message import Request
from waypoint.core.objects import Json, Problem, UnusableError, mapping, sequence, string, strings
from waypoint.core.place import Place
from waypoint.core.predicate import Predicate

DRY_RUN: Final = "istio.io/dry-run"


class Effect(Enum):
    """What a matching rule does: CUSTOM asks a provider, AUDIT makes the request be logged."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    CUSTOM = "CUSTOM"
    AUDIT = "AUDIT"


_AFTER_CUSTOM: Final = frozenset(("source.requestPrincipals", "request.auth.principal"))

Clause = tuple[tuple[Predicate, ...], ...]
"""OR-ed entries of AND-ed tests; an empty clause always holds."""


class Rule(msgspec.Struct, frozen=True):
    """One rule: all clauses have to hold. ``never`` is set where an ALLOW cannot be enforced."""

    index: int
    clauses: tuple[Clause, ...]
    never: str = ""

    def failing(self, request: Request) -> str | None:
        """The field that keeps the rule from matching, or None where it matches."""
        if self.never:
            return self.never
        for clause in self.clauses:
            failed = _clause_failing(clause, request)
            if failed is not None:
                return failed
        return None

    def matches_connection(self, request: Request, effect: Effect) -> bool:
        """Judge a raw TCP connection, which has no HTTP fields.

        An ALLOW rule that asks for HTTP does not match; a denying rule matches on what is left.
        """
        if self.never:
            return False
        for clause in self.clauses:
            http = any(p.http for entry in clause for p in entry)
            if http and effect is Effect.ALLOW:
                return False
            left = tuple(tuple(p for p in entry if not p.http) for entry in clause)
            if _clause_failing(left, request) is not None:
                return False
        return True


def _clause_failing(clause: Clause, request: Request) -> str | None:
    last: str | None = None
    for entry in clause:
        for predicate in entry:
            if not predicate.test(request):
                last = predicate.field
                break
        else:
            return None
    return last


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled AuthorizationPolicy.

    ``unreadable`` says that not even its targets are known: then it holds for everything that
    policies of its namespace can be attached to.
    """

    namespace: str
    name: str
    effect: Effect
    rules: tuple[Rule, ...]
    targets: tuple[TargetRef, ...]
    dry_run: bool = False
    unreadable: bool = False
    provider: str = ""
    """Whom CUSTOM asks: a name of the mesh configuration."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def attached_to(self, service: Service | None, place: Place) -> bool:
        """Does the policy hold at this waypoint, for this service (None: a pod's own address)?

        Policies without targetRefs belong to the node tunnels and never hold here.
        """
        if self.unreadable:
            owner = service.namespace if service is not None else ""
            return self.namespace in (place.namespace, place.root_namespace, owner)
        return holds_for(self.targets, self.namespace, service, place)


def compile_policy(config: ConfigObject, place: Place) -> tuple[Policy, list[Problem]]:
    """The policy, and what could not be enforced as written.

    Raises UnusableError only where not even the targets can be read.
    """
    spec = mapping(config.object.get("spec"), "spec")
    targets = read_targets(spec)
    problems: list[Problem] = []
    name = f"AuthorizationPolicy/{config.namespace}/{config.name}"
    action = spec.get("action", "ALLOW")
    try:
        effect = Effect(action)
    except ValueError:
        problems.append(Problem(name, "spec.action", f"unknown action {action!r}", "denies all"))
        deny_all = Rule(0, ())
        broken = Policy(
            namespace=config.namespace,
            name=config.name,
            effect=Effect.DENY,
            rules=(deny_all,),
            targets=targets,
        )
        return broken, problems
    compiler = _Compiler(name, effect, config.namespace, place, problems)
    policy = Policy(
        namespace=config.namespace,
        name=config.name,
        effect=effect,
        rules=compiler.rules(spec.get("rules")),
        targets=targets,
        dry_run=_dry_run(config.object),
        provider=_provider(spec) if effect is Effect.CUSTOM else "",
    )
    return policy, problems


def unreadable_policy(config: ConfigObject) -> Policy:
    """Stands in for a policy whose targets cannot be read: it refuses everything near it."""
    return Policy(
        namespace=config.namespace,
        name=config.name,
        effect=Effect.DENY,
        rules=(Rule(0, ()),),
        targets=(),
        unreadable=True,
    )


def _provider(spec: Json) -> str:
    """Empty where it cannot be read: nobody has that name, and what matches is refused."""
    provider = spec.get("provider")
    name = provider.get("name") if isinstance(provider, Mapping) else None
    return name if isinstance(name, str) else ""


def _dry_run(obj: Json) -> bool:
    metadata = obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    value = annotations.get(DRY_RUN) if isinstance(annotations, Mapping) else None
    return isinstance(value, str) and value.lower() in ("true", "1", "t")


class _Compiler:
    """Compiles the rules of one policy, collecting problems."""

    def __init__(
        self, name: str, effect: Effect, namespace: str, place: Place, problems: list[Problem]
    ) -> None:
        self._name = name
        self._effect = effect
        self._namespace = namespace
        self._place = place
        self._problems = problems

    def rules(self, raw: Any) -> tuple[Rule, ...]:
        """All rules; a list that cannot be read denies everything."""
        try:
            items = sequence(raw, "spec.rules")
        except UnusableError as bad:
            self._problem(bad)
            return () if self._effect is Effect.ALLOW else (Rule(0, ()),)
        return tuple(self._rule(index, item) for index, item in enumerate(items))

    def _rule(self, index: int, raw: Any) -> Rule:
        field = f"spec.rules[{index}]"
        never: list[str] = []
        try:
            if raw is None:
                raise UnusableError(field, "a rule may be {}, but not null")
            rule = mapping(raw, field)
            self._known(rule, ("from", "to", "when"), field, never)
            clauses = [
                self._entries(rule.get("from"), f"{field}.from", "source", never),
                self._entries(rule.get("to"), f"{field}.to", "operation", never),
            ]
            for number, item in enumerate(sequence(rule.get("when"), f"{field}.when")):
                clauses.append(self._when(item, f"{field}.when[{number}]", never))
        except UnusableError as bad:
            self._give_up(bad, never)
            clauses = []
        return Rule(index, tuple(c for c in clauses if c), never[0] if never else "")

    def _entries(self, raw: Any, field: str, inner: str, never: list[str]) -> Clause:
        found: list[tuple[Predicate, ...]] = []
        for number, item in enumerate(sequence(raw, field)):
            entry = mapping(item, f"{field}[{number}]")
            where = f"{field}[{number}].{inner}"
            self._known(entry, (inner,), f"{field}[{number}]", never)
            tests: list[Predicate] = []
            if not entry.get(inner):
                raise UnusableError(where, "required")
            for key, values in mapping(entry.get(inner), where).items():
                predicate = self._field(inner, key, values, f"{where}.{key}", never)
                if predicate is not None:
                    tests.append(predicate)
            found.append(tuple(tests))
        return tuple(found)

    def _field(
        self, inner: str, key: str, raw: Any, field: str, never: list[str]
    ) -> Predicate | None:
        negated = key.startswith("not") and key[3:4].isupper()
        positive = key[3].lower() + key[4:] if negated else key
        try:
            values = strings(raw, field)
            if not values:
                raise UnusableError(field, "empty list")
            test, http = self._test(f"{inner}.{positive}", values, field)
        except UnusableError as bad:
            self._give_up(bad, never)
            return None
        return Predicate(f"{inner}.{key}", _negate(test) if negated else test, http)

    def _when(self, raw: Any, field: str, never: list[str]) -> Clause:
        condition = mapping(raw, field)
        key = string(condition.get("key"), f"{field}.key")
        tests: list[Predicate] = []
        try:
            self._known(condition, ("key", "values", "notValues"), field, never)
            if not (condition.get("values") or condition.get("notValues")):
                raise UnusableError(field, "values or notValues required")
            for name in ("values", "notValues"):
                values = strings(condition.get(name), f"{field}.{name}")
                if values:
                    test, http = self._test(key, values, f"{field}.key")
                    wanted = test if name == "values" else _negate(test)
                    tests.append(Predicate(f"when {key}", wanted, http))
        except UnusableError as bad:
            self._give_up(bad, never)
            return ()
        return (tuple(tests),)

    def _test(self, attribute: str, values: tuple[str, ...], field: str) -> AttributeTest:
        if self._effect is Effect.CUSTOM and attribute in _AFTER_CUSTOM:
            raise UnusableError(field, "is not known yet when CUSTOM asks its provider")
        return attribute_test(attribute, values, field, self._namespace, self._place)

    def _known(self, found: Json, names: tuple[str, ...], field: str, never: list[str]) -> None:
        for key in found:
            if key not in names:
                self._give_up(UnusableError(f"{field}.{key}", "unknown field"), never)

    def _give_up(self, bad: UnusableError, never: list[str]) -> None:
        """Note the problem; an ALLOW rule is then out."""
        self._problem(bad)
        if self._effect is Effect.ALLOW:
            never.append(bad.field)

    def _problem(self, bad: UnusableError) -> None:
        strict = "the rule allows nothing" if self._effect is Effect.ALLOW else "taken as met"
        self._problems.append(Problem(self._name, bad.field, bad.reason, strict))


def _negate(test: Callable[[Request], bool]) -> Callable[[Request], bool]:
    return lambda request: not test(request)
