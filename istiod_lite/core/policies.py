"""AuthorizationPolicy to the L4 policy that node tunnels enforce.

Policies with targetRefs are the waypoint's. Of the others the L4 part is sent; what a tunnel
cannot see, or nobody can parse, makes the result stricter, never wider:

* ALLOW: a rule with an HTTP attribute or an unreadable value is left out;
* DENY: the attribute is left out of its match, so that more is denied; a match of which nothing
  is left never fires (ztunnel's semantics) unless its values were unreadable: then it always does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import Any, Final, NamedTuple, TypeVar

from ambient.api.policy import (
    Action,
    Authorization,
    Clause,
    Group,
    IPNetwork,
    Match,
    MatchKind,
    Scope,
    ServiceAccountMatch,
    StringMatch,
)
from ambient.kube.core import objects
from istiod_lite.core.facts import MeshFacts, ObjectKey
from istiod_lite.core.statuses import ZTUNNEL_ACCEPTED, Condition

DRY_RUN_ANNOTATION: Final = "istio.io/dry-run"

T = TypeVar("T")


class Translation(NamedTuple):
    """What to enforce (None: nothing), remarks for the user, one sentence each, and what the
    policy's status says of them (None where tunnels have no part in the policy).
    """

    authorization: Authorization | None
    remarks: tuple[str, ...] = ()
    condition: Condition | None = None


class _UnreadableError(ValueError):
    """A value that cannot be parsed; the text names it."""


class _Rules:
    """Translates the rules of one policy and gathers what could not be kept."""

    def __init__(self, action: Action, namespace: str) -> None:
        self.deny = action is Action.DENY
        self.namespace = namespace
        self.http: list[str] = []
        self.unreadable: list[str] = []

    def group(self, rule: objects.Rule) -> Group | None:
        """One rule; None where it is left out."""
        before = self._losses
        clauses: list[Clause | None] = []
        if rule.to:
            clauses.append(self._clause(self._operation(one.operation) for one in rule.to))
        if rule.from_:
            clauses.append(self._clause(self._source(one.source) for one in rule.from_))
        clauses += [self._clause((self._condition(one),)) for one in rule.when or ()]
        if not self.deny and self._losses > before:
            return None
        # None stands for "always true": an AND does not need it.
        return tuple(clause for clause in clauses if clause is not None)

    @property
    def _losses(self) -> int:
        return len(self.http) + len(self.unreadable)

    def _clause(self, matches: Iterable[Match | None]) -> Clause | None:
        found = list(matches)
        return None if any(one is None for one in found) else tuple(one for one in found if one)

    def _match(self, fields: dict[str, tuple[Any, ...] | None], http_before: int) -> Match | None:
        """A match; None (always true) for a DENY that has no condition, or no readable one."""
        kept = {name: values for name, values in fields.items() if values}
        unconditional = not kept and len(self.http) == http_before
        return None if self.deny and unconditional else Match(**kept)

    def _source(self, source: objects.Source) -> Match | None:
        before = len(self.http)
        self._http_fields(source, "requestPrincipals", "remoteIpBlocks")
        fields = {
            "principals": self._read(source.principals, string_match),
            "not_principals": self._read(source.not_principals, string_match),
            "namespaces": self._read(source.namespaces, string_match),
            "not_namespaces": self._read(source.not_namespaces, string_match),
            "source_ips": self._read(source.ip_blocks, network),
            "not_source_ips": self._read(source.not_ip_blocks, network),
            "service_accounts": self._read(source.service_accounts, self._account),
            "not_service_accounts": self._read(source.not_service_accounts, self._account),
        }
        return self._match(fields, before)

    def _operation(self, operation: objects.Operation) -> Match | None:
        before = len(self.http)
        self._http_fields(operation, "hosts", "methods", "paths")
        fields = {
            "destination_ports": self._read(operation.ports, port),
            "not_destination_ports": self._read(operation.not_ports, port),
        }
        return self._match(fields, before)

    def _condition(self, when: objects.RuleWhen) -> Match | None:
        if when.key not in _CONDITIONS:
            self.http.append(when.key)
            return Match()
        field, read = _CONDITIONS[when.key]
        fields = {
            field: self._read(when.values, read),
            f"not_{field}": self._read(when.not_values, read),
        }
        return self._match(fields, len(self.http))

    def _read(
        self, texts: tuple[str, ...] | None, read: Callable[[str], T]
    ) -> tuple[T, ...] | None:
        """All values of a field; a field with an unreadable one is dropped as a whole."""
        try:
            return tuple(read(text) for text in texts or ())
        except _UnreadableError as error:
            self.unreadable.append(str(error))
            return None

    def _http_fields(self, holder: objects.Source | objects.Operation, *names: str) -> None:
        for name in names:
            for attribute in (name, "not" + name[0].upper() + name[1:]):
                if getattr(holder, _snake(attribute)):
                    self.http.append(attribute)

    def _account(self, text: str) -> ServiceAccountMatch:
        namespace, slash, account = text.rpartition("/")
        if not account or (slash and not namespace):
            raise _UnreadableError(f"service account {text!r} is not <namespace>/<name> or <name>")
        return ServiceAccountMatch(namespace or self.namespace, account)


def translate(policy: objects.AuthorizationPolicy, facts: MeshFacts) -> Translation:
    """One policy, as far as node tunnels enforce it."""
    spec, metadata, root = policy.spec, policy.metadata, facts.root_namespace
    key = ObjectKey(metadata.namespace, metadata.name)
    if spec.targets:
        return Translation(None)
    if spec.action in ("CUSTOM", "AUDIT"):
        text = f"action {spec.action} needs a waypoint: attach the policy with targetRefs"
        return _said(None, (text,))
    if spec.action not in ("ALLOW", "DENY"):
        text = f"action {spec.action!r} is unknown, nothing is allowed where the policy applies"
        return _said(refusal(key, spec.selector, root), (text,))
    action = Action[spec.action]
    dry_run = (metadata.annotation(DRY_RUN_ANNOTATION) or "").lower() == "true"
    if dry_run and not facts.send_dry_run:
        text = f"annotation {DRY_RUN_ANNOTATION}: this mesh does not tell tunnels dry runs"
        return _said(None, (text,))
    rules = _Rules(action, metadata.namespace)
    groups = [rules.group(rule or objects.Rule()) for rule in spec.rules or ()]
    authorization = Authorization(
        name=metadata.name,
        namespace=metadata.namespace,
        scope=_scope(metadata.namespace, spec.selector, root),
        action=action,
        groups=tuple(group for group in groups if group is not None),
        dry_run=dry_run,
    )
    return _said(authorization, _remarks(rules, authorization))


def unreadable(
    key: ObjectKey, selector: objects.LabelSelector | None, reason: str, facts: MeshFacts
) -> Translation:
    """In place of a policy that nobody can read."""
    text = f"{reason}: nothing is allowed where the policy applies"
    return _said(refusal(key, selector, facts.root_namespace), (text,))


def _said(authorization: Authorization | None, remarks: tuple[str, ...]) -> Translation:
    """The condition is met whenever the policy is sent, even if not all of it could be."""
    sent = authorization is not None
    if remarks:
        reason, text = "UnsupportedValue", "; ".join(remarks)
    else:
        reason, text = "Accepted", "Node tunnels enforce the policy"
    if authorization is not None and authorization.dry_run:
        text = "; ".join(
            ("Dry run: node tunnels log what it would deny, and let it pass", *remarks)
        )
    return Translation(authorization, remarks, Condition(ZTUNNEL_ACCEPTED, sent, reason, text))


def refusal(
    key: ObjectKey, selector: objects.LabelSelector | None, root_namespace: str
) -> Authorization:
    """In place of a policy that nobody can read: allows nothing where it applies."""
    return Authorization(
        name=key.name,
        namespace=key.namespace,
        scope=_scope(key.namespace, selector, root_namespace),
        action=Action.ALLOW,
    )


def string_match(text: str) -> StringMatch:
    """``*`` any value, ``*x`` a suffix, ``x*`` a prefix, otherwise exact."""
    if text == "*":
        return StringMatch(MatchKind.PRESENCE)
    if not text:
        raise _UnreadableError("an empty string matches nothing")
    if text.startswith("*"):
        return StringMatch(MatchKind.SUFFIX, text[1:])
    if text.endswith("*"):
        return StringMatch(MatchKind.PREFIX, text[:-1])
    return StringMatch(MatchKind.EXACT, text)


def network(text: str) -> IPNetwork:
    """An address or a CIDR; host bits are masked. Raises _UnreadableError."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise _UnreadableError(f"{text!r} is no IP address or CIDR") from None


def port(text: str) -> int:
    """A port number. Raises _UnreadableError."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 65535:
        raise _UnreadableError(f"{text!r} is no port (1 to 65535)")
    return int(text)


_CONDITIONS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "source.ip": ("source_ips", network),
    "source.namespace": ("namespaces", string_match),
    "source.principal": ("principals", string_match),
    "destination.ip": ("destination_ips", network),
    "destination.port": ("destination_ports", port),
}


def _scope(namespace: str, selector: objects.LabelSelector | None, root_namespace: str) -> Scope:
    if selector is not None:
        return Scope.WORKLOAD_SELECTOR
    return Scope.GLOBAL if namespace == root_namespace else Scope.NAMESPACE


def _remarks(rules: _Rules, authorization: Authorization) -> tuple[str, ...]:
    remarks = []
    if rules.unreadable:
        effect = "more is denied" if rules.deny else "the rules that have them are left out"
        remarks.append(f"{'; '.join(rules.unreadable)}: {effect}")
    if rules.http:
        names = ", ".join(sorted(set(rules.http)))
        if not rules.deny:
            effect = "ALLOW rules that have them are left out, less is allowed than asked"
        elif any(_can_fire(group) for group in authorization.groups):
            effect = "DENY is enforced without them, more is denied than asked"
        else:
            effect = "nothing of this DENY can be enforced"
        remarks.append(
            f"HTTP attributes need a waypoint ({names}): {effect}; "
            "attach the policy with targetRefs"
        )
    return tuple(remarks)


def _can_fire(group: Group) -> bool:
    return all(any(match != Match() for match in clause) for clause in group)


def _snake(name: str) -> str:
    return "".join("_" + char.lower() if char.isupper() else char for char in name)
