"""L4 policies (istio.security), both directions."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from ambient.api import policy
from ambient.api.pb import authorization_pb2 as apb
from ambient.api.policy import Authorization
from ambient.xds.core.wire.parts import BadResource, cidr, each, known, parse, port, text


def read_authorization(raw: bytes) -> Authorization:
    """Raises BadResource."""
    message = parse(apb.Authorization, raw)

    def group(field: str, group: apb.Group) -> policy.Group:
        return each(f"{field}.rules", group.rules, clause)

    def clause(field: str, rules: apb.Rules) -> policy.Clause:
        return each(f"{field}.matches", rules.matches, _match)

    return Authorization(
        name=text("name", message.name),
        namespace=text("namespace", message.namespace, required=False),
        scope=known(policy.Scope, "scope", message.scope),
        action=known(policy.Action, "action", message.action),
        groups=each("groups", message.groups, group),
        dry_run=message.dry_run,
    )


def _match(field: str, message: apb.Match) -> policy.Match:
    def values(name: str, read: Callable[[str, Any], Any]) -> tuple[Any, ...]:
        return each(f"{field}.{name}", getattr(message, name), read)

    return policy.Match(**{name: values(name, read) for name, read in _MATCH_READERS.items()})


def _string_match(field: str, message: apb.StringMatch) -> policy.StringMatch:
    match message.WhichOneof("match_type"):
        case "exact":
            return policy.StringMatch(policy.MatchKind.EXACT, text(field, message.exact))
        case "prefix":
            return policy.StringMatch(policy.MatchKind.PREFIX, text(field, message.prefix))
        case "suffix":
            return policy.StringMatch(policy.MatchKind.SUFFIX, text(field, message.suffix))
        case "presence":
            return policy.StringMatch(policy.MatchKind.PRESENCE)
        case _:
            raise BadResource(field, None, "is not exact, prefix, suffix or presence")


def _range(field: str, message: apb.Address) -> policy.IPNetwork:
    return cidr(field, message.address, message.length)


def _account(field: str, message: apb.ServiceAccountMatch) -> policy.ServiceAccountMatch:
    return policy.ServiceAccountMatch(
        text(f"{field}.namespace", message.namespace),
        text(f"{field}.serviceAccount", message.serviceAccount),
    )


_MATCH_READERS: Final[dict[str, Callable[[str, Any], Any]]] = {
    negation + name: read
    for name, read in (
        ("namespaces", _string_match),
        ("principals", _string_match),
        ("source_ips", _range),
        ("destination_ips", _range),
        ("destination_ports", port),
        ("service_accounts", _account),
    )
    for negation in ("", "not_")
}


def refusing(raw: bytes) -> Authorization | None:
    """A stand-in for a policy that ``decode`` refused: it denies all that the policy selects.

    None where not even name and scope can be read, and for dry-run policies, which never deny.
    """
    try:
        message = parse(apb.Authorization, raw)
        if message.dry_run:
            return None
        return Authorization(
            name=text("name", message.name),
            namespace=text("namespace", message.namespace, required=False),
            scope=known(policy.Scope, "scope", message.scope),
            action=policy.Action.DENY,
            groups=((),),
        )
    except BadResource:
        return None


def put_authorization(value: Authorization) -> apb.Authorization:
    """The message of a policy."""
    message = apb.Authorization(name=value.name, namespace=value.namespace, dry_run=value.dry_run)
    message.scope = int(value.scope)  # type: ignore[assignment]
    message.action = int(value.action)  # type: ignore[assignment]
    for group in value.groups:
        rules = message.groups.add().rules
        for clause in group:
            rules.add().matches.extend(map(_put_match, clause))
    return message


def _put_match(value: policy.Match) -> apb.Match:
    fields: dict[str, Any] = {}
    for name in _MATCH_READERS:
        fields[name] = [_put_value(item) for item in getattr(value, name)]
    return apb.Match(**fields)


def _put_value(value: Any) -> Any:
    match value:
        case policy.StringMatch(policy.MatchKind.PRESENCE):
            return apb.StringMatch(presence=Empty())
        case policy.StringMatch(kind, wanted):
            return apb.StringMatch(**{kind.name.lower(): wanted})  # type: ignore[arg-type]
        case policy.ServiceAccountMatch(namespace, account):
            return apb.ServiceAccountMatch(namespace=namespace, serviceAccount=account)
        case IPv4Network() | IPv6Network():
            return apb.Address(address=value.network_address.packed, length=value.prefixlen)
        case _:
            return value
