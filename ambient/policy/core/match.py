"""One rule against one connection, and why it missed.

A Match is compiled once into the tests of the fields that it sets, so that a connection pays only
for those. Semantics: ztunnel src/rbac.rs; an empty Match never matches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from ambient.api.address import IPAddress
from ambient.api.policy import (
    IPNetwork,
    Match,
    MatchKind,
    ServiceAccountMatch,
    StringMatch,
)
from ambient.api.spiffe import Identity


class Connection(NamedTuple):
    """What L4 policy may look at. ``source`` None: nothing proved who is calling."""

    source: Identity | None
    source_ip: IPAddress
    destination_ip: IPAddress
    destination_port: int


class Facts(NamedTuple):
    """A connection in the forms that matches compare, made once for each decision."""

    principal: str | None
    namespace: str
    account: tuple[str, str] | None
    source_ip: IPAddress
    destination_ip: IPAddress
    destination_port: int


def facts_of(connection: Connection) -> Facts:
    """Without identity: no principal, no account, the namespace ``""``."""
    source = connection.source
    if source is None:
        return Facts(None, "", None, *connection[1:])
    account = (source.namespace, source.service_account)
    return Facts(source.principal, source.namespace, account, *connection[1:])


Hit = Callable[[Facts], bool]


class FieldTest(NamedTuple):
    """One set field of a Match: passed where ``hit`` is as the field (or its negation) wants."""

    field: str
    negated: bool
    hit: Hit
    wanted: Sequence[object]

    def passes(self, facts: Facts) -> bool:
        """Is this field satisfied?"""
        return self.hit(facts) is not self.negated


CompiledMatch = tuple[FieldTest, ...]


def compile_match(match: Match) -> CompiledMatch:
    """The tests of a Match; none at all for an empty Match, which never matches."""
    return tuple(
        FieldTest(negation + field, bool(negation), compile_field(values), values)
        for field, compile_field in _FIELDS.items()
        for negation in ("", "not_")
        if (values := getattr(match, negation + field))
    )


def matches(compiled: CompiledMatch, facts: Facts) -> bool:
    """Does every field that is set match?"""
    for test in compiled:
        if test.hit(facts) is test.negated:
            return False
    return bool(compiled)


def actual(field: str, facts: Facts) -> str:
    """What the connection has where ``field`` looks."""
    match field.removeprefix("not_"):
        case "principals":
            return facts.principal or "no identity"
        case "service_accounts":
            return "/".join(facts.account) if facts.account else "no identity"
        case "namespaces":
            return facts.namespace or "no identity"
        case "source_ips":
            return str(facts.source_ip)
        case "destination_ips":
            return str(facts.destination_ip)
        case _:
            return str(facts.destination_port)


def wanted_text(values: Iterable[object]) -> str:
    """The values of a field as a policy's author writes them."""
    return ", ".join(map(_value_text, values))


def _value_text(value: object) -> str:
    match value:
        case StringMatch(MatchKind.PRESENCE):
            return "*"
        case StringMatch(MatchKind.PREFIX, text):
            return f"{text}*"
        case StringMatch(MatchKind.SUFFIX, text):
            return f"*{text}"
        case StringMatch(MatchKind.EXACT, text):
            return text
        case ServiceAccountMatch(namespace, account):
            return f"{namespace}/{account}"
        case _:
            return str(value)


def _string_test(values: Sequence[StringMatch]) -> Callable[[str | None], bool]:
    exact = frozenset(value for kind, value in values if kind is MatchKind.EXACT)
    prefixes = tuple(value for kind, value in values if kind is MatchKind.PREFIX)
    suffixes = tuple(value for kind, value in values if kind is MatchKind.SUFFIX)
    presence = any(kind is MatchKind.PRESENCE for kind, _ in values)

    def hit(text: str | None) -> bool:
        if text is None:
            return False
        return (
            text in exact
            or (presence and text != "")
            or text.startswith(prefixes)
            or text.endswith(suffixes)
        )

    return hit


def _principals(values: Sequence[StringMatch]) -> Hit:
    test = _string_test(values)
    return lambda facts: test(facts.principal)


def _namespaces(values: Sequence[StringMatch]) -> Hit:
    test = _string_test(values)
    return lambda facts: test(facts.namespace)


def _accounts(values: Sequence[ServiceAccountMatch]) -> Hit:
    wanted = frozenset(map(tuple, values))
    return lambda facts: facts.account in wanted


def _ranges(values: Sequence[IPNetwork]) -> Callable[[IPAddress], bool]:
    """Single hosts by one look-up; ranges by comparing masked integers."""
    hosts = frozenset(net.network_address for net in values if net.num_addresses == 1)
    ranges = tuple(
        (net.version, int(net.network_address), int(net.netmask))
        for net in values
        if net.num_addresses > 1
    )

    def hit(ip: IPAddress) -> bool:
        if ip in hosts:
            return True
        number = int(ip)
        version = ip.version
        return any(number & mask == base and version == of for of, base, mask in ranges)

    return hit


def _source_ips(values: Sequence[IPNetwork]) -> Hit:
    test = _ranges(values)
    return lambda facts: test(facts.source_ip)


def _destination_ips(values: Sequence[IPNetwork]) -> Hit:
    test = _ranges(values)
    return lambda facts: test(facts.destination_ip)


def _ports(values: Sequence[int]) -> Hit:
    wanted = frozenset(values)
    return lambda facts: facts.destination_port in wanted


# Cheapest first: the first miss ends a Match.
_FIELDS: Final[dict[str, Callable[[Sequence], Hit]]] = {  # type: ignore[type-arg]
    "destination_ports": _ports,
    "service_accounts": _accounts,
    "namespaces": _namespaces,
    "principals": _principals,
    "source_ips": _source_ips,
    "destination_ips": _destination_ips,
}
assert {*_FIELDS} | {f"not_{field}" for field in _FIELDS} == {*Match.__struct_fields__}
