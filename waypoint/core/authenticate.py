"""Whose request is this? Verifies the tokens of a request as Envoy's jwt_authn does.

``judge`` looks and changes nothing, so that it can be repeated with newer keys; ``accept`` edits
the request once it is known to be good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from waypoint.core import claims
from waypoint.core.json_web_token import (
    FETCH_FAILED,
    MISSING,
    NO_KEY,
    UNKNOWN_ISSUER,
    WRONG_AUDIENCE,
    KeySet,
    Token,
    TokenError,
    audience_form,
    recall,
    remember,
)
from waypoint.core.message import Reply, Request
from waypoint.core.request_authentication import (
    Authentication,
    Carrier,
    KeySource,
    Location,
    Provider,
)

KeysOf = Callable[[KeySource], KeySet | None]
"""The keys of a source as far as they are known; None where they could not be fetched."""
LONGEST_PATH: Final = 256
"""Characters of the path that a realm repeats (Envoy)."""
_TOKEN_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


class Found(NamedTuple):
    """A token where it was."""

    location: Location
    text: str


class Judged(NamedTuple):
    """``error`` is empty for requests that may go on: with a token, or without any.

    ``stale`` is a source whose keys may be too old for the token.
    """

    error: str = ""
    provider: Provider | None = None
    tokens: tuple[tuple[Found, Token], ...] = ()
    stale: KeySource | None = None


def judge(rules: Authentication, request: Request, keys: KeysOf, now_s: float) -> Judged:
    """Is one of the rules content, or does the request carry no token that any of them reads?"""
    if is_preflight(request):
        return Judged()
    errors: list[Judged] = []
    for provider in rules.providers:
        judged = _by(provider, request, keys, now_s)
        if not judged.error:
            return judged
        errors.append(judged)
    weight = {MISSING: 0, UNKNOWN_ISSUER: 1}
    worst = max(errors, key=lambda one: weight.get(one.error, 2), default=Judged())
    return Judged() if worst.error == MISSING else worst


def wanted(rules: Authentication, request: Request) -> list[KeySource]:
    """The sources whose keys a request needs: those of the rules that find a token in it."""
    if is_preflight(request):
        return []
    return [
        one.source
        for one in rules.providers
        if one.source is not None and next(tokens_of(one.locations, request), None) is not None
    ]


def _by(provider: Provider, request: Request, keys: KeysOf, now_s: float) -> Judged:
    """By one rule: all tokens at its places have to be good (Envoy begins with the last)."""
    found = list(tokens_of(provider.locations, request))
    if not found:
        return Judged(MISSING)
    good: list[tuple[Found, Token]] = []
    for one in reversed(found):
        try:
            token, proven_by = recall(one.text)
            known = _check(provider, token, keys, now_s)
            if known is not proven_by:
                known.verify(token)
                remember(one.text, token, known)
        except TokenError as bad:
            stale = provider.source if str(bad) == NO_KEY else None
            return Judged(str(bad), stale=stale)
        good.append((one, token))
    return Judged(provider=provider, tokens=tuple(good))


def _check(provider: Provider, token: Token, keys: KeysOf, now_s: float) -> KeySet:
    """The keys that have to prove a token which says the right things."""
    if provider.issuer and token.issuer != provider.issuer:
        raise TokenError(UNKNOWN_ISSUER)
    token.check_time(now_s)
    if provider.audiences and not any(
        audience_form(one) in provider.audiences for one in token.audiences
    ):
        raise TokenError(WRONG_AUDIENCE)
    known = provider.keys
    if provider.source is not None:
        known = keys(provider.source)
    if known is None:
        raise TokenError(FETCH_FAILED)
    return known


def may_carry_token(rules: Authentication, request: Request) -> bool:
    """False only where none of the places that the rules look at has anything."""
    headers = request.headers
    for provider in rules.providers:
        for carrier, name, _ in provider.locations:
            if carrier is Carrier.HEADER:
                found = name in headers
            elif carrier is Carrier.PARAMETER:
                found = name in request.target
            else:
                found = "cookie" in headers
            if found:
                return True
    return False


def tokens_of(locations: tuple[Location, ...], request: Request) -> Iterator[Found]:
    """The tokens at these places: headers first, then parameters, then cookies."""
    for location in locations:
        match location.carrier:
            case Carrier.HEADER:
                for name, value in request.headers:
                    if name == location.name and location.prefix in value:
                        yield Found(location, _after(value, location.prefix))
            case Carrier.PARAMETER:
                raw = request.query_value(location.name)
                if raw is not None:
                    yield Found(location, unquote_plus(raw))
            case Carrier.COOKIE:
                cookie = _cookie(request, location.name)
                if cookie is not None:
                    yield Found(location, cookie)


def _after(value: str, prefix: str) -> str:
    """What follows a prefix, from the first character that a token may have (Envoy)."""
    if not prefix:
        return value
    start = value.index(prefix) + len(prefix)
    while start < len(value) and value[start] not in _TOKEN_CHARS:
        start += 1
    return value[start:] if start < len(value) else value


def _cookie(request: Request, name: str) -> str | None:
    for field, line in request.headers:
        if field != "cookie":
            continue
        for pair in line.split(";"):
            key, equals, value = pair.strip().partition("=")
            if equals and key == name:
                return value.strip().removeprefix('"').removesuffix('"')
    return None


def accept(rules: Authentication, judged: Judged, request: Request) -> None:
    """Edit a request that may go on: its claims are known, its token is removed or passed on."""
    if rules.output_headers:
        request.headers.remove(*rules.output_headers)
    provider = judged.provider
    if provider is None:
        return
    for found, token in judged.tokens:
        if provider.payload_header:
            request.headers.add(provider.payload_header, token.payload_text)
        for header, path in provider.claim_headers:
            text = claims.header_text(claims.at(token.payload, path))
            if text and not set(text) & set("\r\n\0"):
                request.headers.add(header, text)
        if not provider.forward:
            _remove(found.location, request)
        request.claims = claims.normalised(token.payload, provider.split_claims)


def _remove(location: Location, request: Request) -> None:
    match location.carrier:
        case Carrier.HEADER:
            request.headers.remove(location.name)
        case Carrier.PARAMETER:
            pairs = request.query.split("&")
            left = [pair for pair in pairs if pair.partition("=")[0] != location.name]
            request.target = request.path + ("?" + "&".join(left) if left else "")
        case Carrier.COOKIE:
            pass  # cookies stay, as in Envoy: applications share them


def is_preflight(request: Request) -> bool:
    """A CORS preflight, which browsers send without credentials (Fetch standard)."""
    return (
        request.method == "OPTIONS"
        and bool(request.headers.get("origin"))
        and bool(request.headers.get("access-control-request-method"))
    )


def refusal(error: str, request: Request) -> Reply:
    """Envoy's answer to a token that is not good."""
    path = request.target[:LONGEST_PATH]
    challenge = f'Bearer realm="{request.scheme}://{request.authority}{path}"'
    if error != MISSING:
        challenge += ', error="invalid_token"'
    details = "_".join(error.split())
    return Reply(
        403 if error == WRONG_AUDIENCE else 401,
        error,
        "-",
        f"jwt_authn_access_denied{{{details}}}",
        (("www-authenticate", challenge),),
    )
