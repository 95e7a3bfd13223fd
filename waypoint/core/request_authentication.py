"""RequestAuthentication: which tokens a request may carry, where, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import Service
from waypoint.core.attachment import TargetRef, holds_for, read_targets
from waypoint.core.json_web_token import KeySet, audience_form, read_keys
from waypoint.core.objects import (
    Json,
    Problem,
    UnusableError,
    duration_s,
    mapping,
    sequence,
    string,
    strings,
)
from waypoint.core.place import Place

FETCH_TIMEOUT_S: Final = 5.0
"""For a key set (Istio)."""
_HEADER: Final = re.compile(r"[-A-Za-z0-9_]+")


class Carrier(Enum):
    """The part of a request that a token is in."""

    HEADER = "header"
    PARAMETER = "parameter"
    COOKIE = "cookie"


class Location(NamedTuple):
    """One place to look at; ``prefix`` stands before the token in a header."""

    carrier: Carrier
    name: str
    prefix: str = ""


DEFAULT_LOCATIONS: Final = (
    Location(Carrier.HEADER, "authorization", "Bearer "),
    Location(Carrier.PARAMETER, "access_token"),
)


class KeySource(NamedTuple):
    """Where keys are fetched; ``discover``: the URL answers with OpenID metadata that names it."""

    url: str
    discover: bool = False
    timeout_s: float = FETCH_TIMEOUT_S


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``jwtRules``. An empty ``issuer`` stands for any; without ``audiences`` any will do.

    ``keys`` is None where they are fetched from ``source``.
    """

    issuer: str
    audiences: frozenset[str] = frozenset()
    keys: KeySet | None = None
    source: KeySource | None = None
    locations: tuple[Location, ...] = DEFAULT_LOCATIONS
    forward: bool = False
    payload_header: str = ""
    claim_headers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    split_claims: tuple[str, ...] = ()


class RequestAuthentication(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled object."""

    namespace: str
    name: str
    providers: tuple[Provider, ...]
    targets: tuple[TargetRef, ...]


class Authentication(msgspec.Struct, frozen=True):
    """What holds for one destination: the rules of all its policies, by issuer."""

    providers: tuple[Provider, ...] = ()
    output_headers: tuple[str, ...] = ()
    """Nobody but us may set these."""

    def __bool__(self) -> bool:
        return bool(self.providers)

    @property
    def sources(self) -> Iterator[KeySource]:
        """Where keys come from."""
        return (one.source for one in self.providers if one.source is not None)


def select(
    found: Iterable[RequestAuthentication], service: Service | None, place: Place
) -> Authentication:
    """The rules for a service, or for a pod's own address."""
    attached = sorted(
        (one for one in found if holds_for(one.targets, one.namespace, service, place)),
        key=lambda one: (one.namespace, one.name),
    )
    providers = sorted(
        (provider for one in attached for provider in one.providers),
        key=lambda provider: provider.issuer,
    )
    headers = [name for one in providers for name, _ in one.claim_headers]
    headers += [one.payload_header for one in providers if one.payload_header]
    return Authentication(tuple(providers), tuple(dict.fromkeys(headers)))


def compile_authentication(
    config: ConfigObject, place: Place
) -> tuple[RequestAuthentication, list[Problem]]:
    """The object, and what could not be enforced as written.

    A rule that cannot be read refuses every token of its issuer. Raises UnusableError only where
    not even the targets can be read.
    """
    del place
    spec = mapping(config.object.get("spec"), "spec")
    problems: list[Problem] = []
    providers: list[Provider] = []
    for index, raw in enumerate(sequence(spec.get("jwtRules"), "spec.jwtRules")):
        field = f"spec.jwtRules[{index}]"
        try:
            providers.append(_provider(mapping(raw, field), field))
        except UnusableError as bad:
            effect = "every token of this issuer is refused"
            problems.append(Problem(config.key, bad.field, bad.reason, effect))
            issuer = raw.get("issuer") if isinstance(raw, dict) else ""
            given = issuer if isinstance(issuer, str) else ""
            providers.append(Provider(issuer=given, keys=KeySet()))
    found = RequestAuthentication(
        namespace=config.namespace,
        name=config.name,
        providers=tuple(providers),
        targets=read_targets(spec),
    )
    return found, problems


def _provider(rule: Json, field: str) -> Provider:
    issuer = string(rule.get("issuer"), f"{field}.issuer")
    audiences = strings(rule.get("audiences"), f"{field}.audiences")
    keys, source = _keys(rule, issuer, field)
    payload_header = string(rule.get("outputPayloadToHeader"), f"{field}.outputPayloadToHeader")
    return Provider(
        issuer=issuer,
        audiences=frozenset(audience_form(one) for one in audiences),
        keys=keys,
        source=source,
        locations=tuple(_locations(rule, field)) or DEFAULT_LOCATIONS,
        forward=rule.get("forwardOriginalToken") is True,
        payload_header=payload_header.lower(),
        claim_headers=tuple(_claim_headers(rule, field)),
        split_claims=strings(rule.get("spaceDelimitedClaims"), f"{field}.spaceDelimitedClaims"),
    )


def _keys(rule: Json, issuer: str, field: str) -> tuple[KeySet | None, KeySource | None]:
    inline = string(rule.get("jwks"), f"{field}.jwks")
    url = string(rule.get("jwksUri") or rule.get("jwks_uri"), f"{field}.jwksUri")
    if inline and url:
        raise UnusableError(field, "has both jwks and jwksUri")
    if inline:
        keys = read_keys(inline)
        if not keys.keys:
            raise UnusableError(f"{field}.jwks", keys.error)
        return keys, None
    timeout_s = duration_s(rule.get("timeout"), f"{field}.timeout") or FETCH_TIMEOUT_S
    discover = not url
    if discover:
        if not issuer:
            raise UnusableError(field, "needs an issuer, jwks or jwksUri")
        url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    if not fetchable(url):
        raise UnusableError(f"{field}.jwksUri", f"{url!r} is no http:// or https:// URL")
    return None, KeySource(url, discover, timeout_s)


def fetchable(url: str) -> bool:
    """Is this a URL that keys may be fetched from?"""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _locations(rule: Json, field: str) -> Iterator[Location]:
    for index, raw in enumerate(sequence(rule.get("fromHeaders"), f"{field}.fromHeaders")):
        where = f"{field}.fromHeaders[{index}]"
        header = mapping(raw, where)
        name = string(header.get("name"), f"{where}.name").lower()
        if not name:
            raise UnusableError(f"{where}.name", "required")
        yield Location(Carrier.HEADER, name, string(header.get("prefix"), f"{where}.prefix"))
    for name in strings(rule.get("fromParams"), f"{field}.fromParams"):
        yield Location(Carrier.PARAMETER, name)
    for name in strings(rule.get("fromCookies"), f"{field}.fromCookies"):
        yield Location(Carrier.COOKIE, name)


def _claim_headers(rule: Json, field: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    raw: Any
    for index, raw in enumerate(
        sequence(rule.get("outputClaimToHeaders"), f"{field}.outputClaimToHeaders")
    ):
        where = f"{field}.outputClaimToHeaders[{index}]"
        entry = mapping(raw, where)
        header = string(entry.get("header"), f"{where}.header")
        claim = string(entry.get("claim"), f"{where}.claim")
        if not _HEADER.fullmatch(header) or not claim:
            raise UnusableError(where, "needs a header of letters, digits, - and _, and a claim")
        yield header.lower(), tuple(claim.split("."))
