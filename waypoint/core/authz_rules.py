"""AuthorizationPolicy into rules: each rule is groups of named tests of a request.

A field that cannot be enforced makes the rule strict: an ALLOW rule with it never matches, a DENY
rule matches as if the field were met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import ip_network
from typing import Any, NamedTuple

import msgspec

from ambient.api.address import IPAddress
from ambient.api.config import ConfigObject
from ambient.api.policy import IPNetwork
from ambient.api.service import Service
from ambient.api.spiffe import Identity
from waypoint.core.filters import split_host
from waypoint.core.message import Request
from waypoint.core.objects import Json, Problem, UnusableError, mapping, sequence, string, strings
from waypoint.core.place import Place
from waypoint.core.predicate import Predicate, Test, any_of, path_pattern_test, pattern_test

DRY_RUN = "istio.io/dry-run"


class Effect(Enum):
    """What a matching rule does. CUSTOM asks a provider; none is reachable, so it denies."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    CUSTOM = "CUSTOM"
    AUDIT = "AUDIT"

    @property
    def denies(self) -> bool:
        """Does a match end in a refusal?"""
        return self in (Effect.DENY, Effect.CUSTOM)


class TargetRef(NamedTuple):
    """What a policy is attached to."""

    group: str
    kind: str
    name: str


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
        failed = next((p.field for p in entry if not p.test(request)), None)
        if failed is None:
            return None
        last = failed
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
        return any(self._targets(ref, service, place) for ref in self.targets)

    def _targets(self, ref: TargetRef, service: Service | None, place: Place) -> bool:
        match ref.kind, ref.group:
            case "Gateway", "gateway.networking.k8s.io":
                return (self.namespace, ref.name) == (place.namespace, place.gateway)
            case "GatewayClass", "gateway.networking.k8s.io":
                return self.namespace == place.root_namespace and ref.name == place.gateway_class
            case "Service", "" | "core":
                host = place.service_host(ref.name, self.namespace)
                return service is not None and service.key == (self.namespace, host)
            case "ServiceEntry", "networking.istio.io":
                return (
                    service is not None
                    and (service.namespace, service.name) == (self.namespace, ref.name)
                    and service.hostname != place.service_host(ref.name, self.namespace)
                )
            case _:
                return False


def compile_policy(config: ConfigObject, place: Place) -> tuple[Policy, list[Problem]]:
    """The policy, and what could not be enforced as written.

    Raises UnusableError only where not even the targets can be read.
    """
    spec = mapping(config.object.get("spec"), "spec")
    targets = _targets(spec)
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
    if effect is Effect.CUSTOM and targets:
        problems.append(
            Problem(
                name, "spec.action", "no CUSTOM provider is available", "denies what it matches"
            )
        )
    if effect is Effect.AUDIT and targets:
        problems.append(Problem(name, "spec.action", "AUDIT is not supported", "no effect"))
    compiler = _Compiler(name, effect, config.namespace, place, problems)
    policy = Policy(
        namespace=config.namespace,
        name=config.name,
        effect=effect,
        rules=compiler.rules(spec.get("rules")),
        targets=targets,
        dry_run=_dry_run(config.object),
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


def _dry_run(obj: Json) -> bool:
    metadata = obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    value = annotations.get(DRY_RUN) if isinstance(annotations, Mapping) else None
    return isinstance(value, str) and value.lower() in ("true", "1", "t")


def _targets(spec: Json) -> tuple[TargetRef, ...]:
    single = spec.get("targetRef")
    refs = sequence(spec.get("targetRefs"), "spec.targetRefs") or ([single] if single else [])
    found: list[TargetRef] = []
    for index, raw in enumerate(refs):
        field = f"spec.targetRefs[{index}]"
        ref = mapping(raw, field)
        found.append(
            TargetRef(
                string(ref.get("group"), f"{field}.group"),
                string(ref.get("kind"), f"{field}.kind"),
                string(ref.get("name"), f"{field}.name"),
            )
        )
    return tuple(found)


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

    def _test(
        self, attribute: str, values: tuple[str, ...], field: str
    ) -> tuple[Callable[[Request], bool], bool]:
        """The test that an attribute has one of the values, and whether it needs HTTP."""
        if attribute.startswith("request.headers[") and attribute.endswith("]"):
            name = attribute[len("request.headers[") : -1].lower()
            return header_test(name, values), True
        connection = self._connection_test(attribute, values, field)
        if connection is not None:
            return connection, False
        match attribute:
            case "operation.methods":
                return _value_test(values, lambda request: request.method), True
            case "operation.hosts":
                return host_test(values), True
            case "operation.paths":
                paths = any_of([path_pattern_test(value, field) for value in values])
                return lambda request: paths(request.path), True
            case _:
                raise UnusableError(field, f"{attribute} cannot be enforced here")

    def _connection_test(
        self, attribute: str, values: tuple[str, ...], field: str
    ) -> Callable[[Request], bool] | None:
        """The test of an attribute that every connection has; None for other attributes."""
        match attribute:
            case "source.principals" | "source.principal":
                return principal_test(values, self._place.trust_domain)
            case "source.namespaces" | "source.namespace":
                return _identity_test(values, lambda identity: identity.namespace)
            case "source.trustDomains" | "source.trustDomain":
                return _identity_test(values, lambda identity: identity.trust_domain)
            case "source.serviceAccounts" | "source.serviceAccount":
                return service_account_test(values, self._namespace, field)
            case "source.ipBlocks" | "source.ip":
                return ip_test(values, field, lambda request: request.peer.ip)
            case "source.remoteIpBlocks" | "remote.ip":
                return ip_test(values, field, lambda request: request.remote_ip)
            case "destination.ip":
                return ip_test(values, field, lambda request: request.local.ip)
            case "operation.ports" | "destination.port":
                return port_test(values, field)
            case _:
                return None

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


def _value_test(
    values: tuple[str, ...], read: Callable[[Request], str]
) -> Callable[[Request], bool]:
    test = any_of([pattern_test(value) for value in values])
    return lambda request: test(read(request))


def _identity_test(
    values: tuple[str, ...], read: Callable[[Identity], str]
) -> Callable[[Request], bool]:
    test = any_of([pattern_test(value) for value in values])
    return lambda request: request.peer.identity is not None and test(read(request.peer.identity))


def principal_test(values: tuple[str, ...], trust_domain: str) -> Callable[[Request], bool]:
    """Principals without ``spiffe://``; ``cluster.local`` also stands for the own trust domain."""
    patterns = list(values)
    for value in values:
        rest = value.removeprefix("cluster.local/")
        if rest != value and trust_domain != "cluster.local":
            patterns.append(f"{trust_domain}/{rest}")
    return _identity_test(tuple(patterns), lambda identity: identity.principal)


def service_account_test(
    values: tuple[str, ...], namespace: str, field: str
) -> Callable[[Request], bool]:
    """``namespace/account``, or an account of the policy's namespace; no wildcards."""
    wanted: set[tuple[str, str]] = set()
    for value in values:
        owner, slash, account = value.partition("/")
        if "*" in value or "/" in account or not (account if slash else owner):
            raise UnusableError(field, f"{value!r} is not a service account")
        wanted.add((owner, account) if slash else (namespace, owner))
    return lambda request: (
        request.peer.identity is not None
        and (request.peer.identity.namespace, request.peer.identity.service_account) in wanted
    )


def ip_test(
    values: tuple[str, ...], field: str, read: Callable[[Request], IPAddress | None]
) -> Callable[[Request], bool]:
    """Addresses and CIDR ranges."""
    networks: list[IPNetwork] = []
    for value in values:
        try:
            networks.append(ip_network(value, strict=False))
        except ValueError:
            raise UnusableError(field, f"{value!r} is not an address or a range") from None

    def passes(request: Request) -> bool:
        ip = read(request)
        return ip is not None and any(ip in network for network in networks)

    return passes


def port_test(values: tuple[str, ...], field: str) -> Callable[[Request], bool]:
    """Decimal ports of the address that the client called."""
    ports: set[int] = set()
    for value in values:
        if not (value.isascii() and value.isdigit() and 0 < int(value) <= 65535):
            raise UnusableError(field, f"{value!r} is not a port")
        ports.add(int(value))
    return lambda request: request.local.port in ports


def host_test(values: tuple[str, ...]) -> Callable[[Request], bool]:
    """Hosts, without regard to case; a value without a port stands for every port.

    Upstream compares the whole Host, so a DENY is evaded by adding the port; that is refused here.
    """
    tests: list[tuple[Test, bool]] = [
        (pattern_test(value, ignore_case=True), split_host(value)[1] is not None)
        for value in values
    ]

    def passes(request: Request) -> bool:
        whole, bare = request.authority, split_host(request.authority)[0]
        return any(test(whole) or (not port and test(bare)) for test, port in tests)

    return passes


def header_test(name: str, values: tuple[str, ...]) -> Callable[[Request], bool]:
    """A header's value; an absent header has none."""
    test = any_of([pattern_test(value) for value in values])

    def passes(request: Request) -> bool:
        value = request.authority if name == "host" else request.headers.get(name)
        return value is not None and test(value)

    return passes
