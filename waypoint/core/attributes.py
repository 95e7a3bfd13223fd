"""What AuthorizationPolicy may ask of a request: one test for each attribute."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Final, NamedTuple

from ambient.api.address import IPAddress
from ambient.api.policy import IPNetwork
from ambient.api.spiffe import Identity
from waypoint.core import claims
from waypoint.core.filters import split_host
from waypoint.core.message import Request
from waypoint.core.objects import UnusableError
from waypoint.core.place import Place
from waypoint.core.predicate import Test, any_of, path_pattern_test, pattern_test

RequestTest = Callable[[Request], bool]
_METADATA: Final = re.compile(r"experimental\.(envoy\.filters\.[\w.]+)\[([^\[\]]+)\]")


class AttributeTest(NamedTuple):
    """``http`` is False where a raw TCP connection has the attribute too."""

    passes: RequestTest
    http: bool


def attribute_test(
    attribute: str, values: tuple[str, ...], field: str, namespace: str, place: Place
) -> AttributeTest:
    """The test that an attribute has one of the values, for a policy of ``namespace``.

    ``attribute`` is a ``when`` key, or ``source.X`` or ``operation.X`` for the fields of a rule.
    Raises UnusableError.
    """
    found = _connection_test(attribute, values, field, namespace, place)
    if found is not None:
        return AttributeTest(found, http=False)
    http = _request_test(attribute, values, field) or _token_test(attribute, values, field)
    if http is None:
        raise UnusableError(field, f"{attribute} cannot be enforced here")
    return AttributeTest(http, http=True)


def _connection_test(
    attribute: str, values: tuple[str, ...], field: str, namespace: str, place: Place
) -> RequestTest | None:
    match attribute:
        case "source.principals" | "source.principal":
            return principal_test(values, place)
        case "source.namespaces" | "source.namespace":
            return _identity_test(values, lambda identity: identity.namespace)
        case "source.trustDomains" | "source.trustDomain":
            return _identity_test(values, lambda identity: identity.trust_domain)
        case "source.serviceAccounts" | "source.serviceAccount":
            return service_account_test(values, namespace, field)
        case "source.ipBlocks" | "source.ip":
            return ip_test(values, field, lambda request: request.peer.ip)
        case "source.remoteIpBlocks" | "remote.ip":
            return ip_test(values, field, lambda request: request.remote_ip)
        case "destination.ip":
            return ip_test(values, field, lambda request: request.local.ip)
        case "operation.ports" | "destination.port":
            return port_test(values, field)
        case "connection.sni":
            return _value_test(values, lambda request: request.sni)
        case _:
            return _metadata_test(attribute, values)


def _request_test(attribute: str, values: tuple[str, ...], field: str) -> RequestTest | None:
    match attribute:
        case "operation.methods":
            return _value_test(values, lambda request: request.method)
        case "operation.hosts":
            return host_test(values)
        case "operation.paths":
            paths = any_of([path_pattern_test(value, field) for value in values])
            return lambda request: paths(request.path)
        case _ if attribute.startswith("request.headers[") and attribute.endswith("]"):
            return header_test(attribute[len("request.headers[") : -1].lower(), values)
        case _:
            return None


def _token_test(attribute: str, values: tuple[str, ...], field: str) -> RequestTest | None:
    """Attributes of a verified token; a request without one has none of them."""
    prefix = "request.auth.claims"
    match attribute:
        case "source.requestPrincipals" | "request.auth.principal":
            return request_principal_test(values)
        case "request.auth.audiences":
            path: claims.Path = ("aud",)
        case "request.auth.presenter":
            path = ("azp",)
        case _ if attribute.startswith(prefix):
            path = claims.bracket_path(attribute[len(prefix) :], field)
        case _:
            return None
    matches = claims.matcher(path, any_of([pattern_test(value) for value in values]))
    return lambda request: matches(request.claims)


def request_principal_test(values: tuple[str, ...]) -> RequestTest:
    """``iss/sub``, split at the last slash; ``*`` is any token that has both (Istio)."""
    tests = [_request_principal(value) for value in values]

    def passes(request: Request) -> bool:
        issuer, subject = (
            claims.texts(request.claims, ("iss",)),
            claims.texts(request.claims, ("sub",)),
        )
        if not issuer or not subject:
            return False
        return any(iss(issuer[0]) and sub(subject[0]) for iss, sub in tests)

    return passes


def _request_principal(value: str) -> tuple[Test, Test]:
    issuer, slash, subject = value.rpartition("/")
    if slash:
        return pattern_test(issuer), pattern_test(subject)
    if value.startswith("*"):
        return bool, pattern_test(value)
    return pattern_test(value), bool


def _metadata_test(attribute: str, values: tuple[str, ...]) -> RequestTest | None:
    """What a filter has noted: ``experimental.envoy.filters.<name>[key]``; ``[x]`` is in a list."""
    found = _METADATA.fullmatch(attribute)
    if found is None:
        return None
    name, key = found.groups()
    single = any_of([pattern_test(one) for one in values if not one.startswith("[")])
    listed = any_of([pattern_test(one[1:-1]) for one in values if one.startswith("[")])

    def passes(request: Request) -> bool:
        noted: Mapping[str, object] = request.metadata.get(name, {})
        value = noted.get(key)
        if isinstance(value, str):
            return single(value)
        return isinstance(value, list) and any(isinstance(v, str) and listed(v) for v in value)

    return passes


def _value_test(values: tuple[str, ...], read: Callable[[Request], str]) -> RequestTest:
    test = any_of([pattern_test(value) for value in values])
    return lambda request: test(read(request))


def _identity_test(values: tuple[str, ...], read: Callable[[Identity], str]) -> RequestTest:
    test = any_of([pattern_test(value) for value in values])
    return lambda request: request.peer.identity is not None and test(read(request.peer.identity))


def principal_test(values: tuple[str, ...], place: Place) -> RequestTest:
    """Principals without ``spiffe://``.

    ``cluster.local``, the own trust domain and its aliases stand for each other.
    """
    same = {"cluster.local", place.trust_domain, *place.trust_domain_aliases}
    patterns = list(values)
    for value in values:
        domain, slash, rest = value.partition("/")
        if slash and domain in same:
            patterns += [f"{other}/{rest}" for other in sorted(same - {domain})]
    return _identity_test(tuple(patterns), lambda identity: identity.principal)


def service_account_test(values: tuple[str, ...], namespace: str, field: str) -> RequestTest:
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
) -> RequestTest:
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


def port_test(values: tuple[str, ...], field: str) -> RequestTest:
    """Decimal ports of the address that the client called."""
    ports: set[int] = set()
    for value in values:
        if not (value.isascii() and value.isdigit() and 0 < int(value) <= 65535):
            raise UnusableError(field, f"{value!r} is not a port")
        ports.add(int(value))
    return lambda request: request.local.port in ports


def host_test(values: tuple[str, ...]) -> RequestTest:
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


def header_test(name: str, values: tuple[str, ...]) -> RequestTest:
    """A header's value; an absent header has none."""
    test = any_of([pattern_test(value) for value in values])

    def passes(request: Request) -> bool:
        value = request.authority if name == "host" else request.headers.get(name)
        return value is not None and test(value)

    return passes
