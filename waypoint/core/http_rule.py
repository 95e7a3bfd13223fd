"""A rule of a VirtualService's ``http``: what it does with the requests that it matches."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import re2

from waypoint.core.cors import CorsPolicy, compile_cors
from waypoint.core.fault import Fault, compile_fault
from waypoint.core.filters import Filter, PathEdit, Redirect, RegexEdit, UrlRewrite
from waypoint.core.header_edits import header_filter
from waypoint.core.message import Reply
from waypoint.core.objects import (
    Json,
    Problem,
    UnusableError,
    duration_s,
    fraction,
    integer,
    mapping,
    sequence,
    string,
)
from waypoint.core.place import Place
from waypoint.core.predicate import check_regex, regex_options
from waypoint.core.retry_policy import DEFAULT, RetryPolicy, compile_retries
from waypoint.core.routes import Action, Backend, DirectResponse, Forward, Mirror

REDIRECT_CODES: Final = (301, 302, 303, 307, 308)
LARGEST_BODY: Final = 1 << 20
"""Bytes of a direct response that Istio admits."""
T = TypeVar("T")


class Effects(NamedTuple):
    """What a rule does. Action and filters depend on what the match found."""

    action_of: Callable[[Json], Action]
    filters_of: Callable[[Json], tuple[Filter, ...]] = lambda _match: ()
    timeout_s: float | None = None
    retries: RetryPolicy = DEFAULT
    fault: Fault | None = None
    cors: CorsPolicy | None = None
    mirrors: tuple[Mirror, ...] = ()


def broken() -> Effects:
    """Of a rule that cannot be followed: it answers 500."""
    answer = DirectResponse(Reply(500, "", "-", "invalid_route"))
    return Effects(lambda _match: answer)


class RuleReader:
    """Reads the rules of one object, in ``namespace``; parts that a rule can do without become
    problems where they cannot be used."""

    def __init__(self, name: str, namespace: str, place: Place) -> None:
        self._name = name
        self._namespace = namespace
        self._place = place
        self.problems: list[Problem] = []

    def effects(self, rule: Json, field: str) -> Effects:
        """What the rule does. Raises UnusableError where it cannot be followed at all."""
        return Effects(
            self._action(rule, field),
            _filters(rule, field),
            duration_s(rule.get("timeout"), f"{field}.timeout"),
            self._part(rule, field, "retries", compile_retries) or DEFAULT,
            self._part(rule, field, "fault", compile_fault),
            self._part(rule, field, "corsPolicy", compile_cors),
            self._mirrors(rule, field),
        )

    def _part(self, rule: Json, field: str, name: str, read: Callable[[Any, str], T]) -> T | None:
        try:
            return read(rule.get(name), f"{field}.{name}")
        except UnusableError as bad:
            self.problem(bad, f"the rule works without {name}")
            return None

    def problem(self, bad: UnusableError, effect: str) -> None:
        """Note what is not enforced as written."""
        self.problems.append(Problem(self._name, bad.field, bad.reason, effect))

    def _action(self, rule: Json, field: str) -> Callable[[Json], Action]:
        redirect = mapping(rule.get("redirect"), f"{field}.redirect")
        if redirect:
            fixed = _redirect(redirect, f"{field}.redirect")
            prefix = string(redirect.get("prefixRewrite"), f"{field}.redirect.prefixRewrite")
            return _redirect_for(fixed, prefix)
        direct = mapping(rule.get("directResponse"), f"{field}.directResponse")
        action: Action
        if direct:
            action = DirectResponse(_direct(direct, f"{field}.directResponse"))
        else:
            action = self.forward(rule.get("route"), f"{field}.route")
        return lambda _match: action

    def forward(self, raw: Any, field: str) -> Forward:
        """Destinations with their weights. Raises UnusableError."""
        destinations = sequence(raw, field)
        backends: list[Backend] = []
        for index, item in enumerate(destinations):
            where = f"{field}[{index}]"
            entry = mapping(item, where)
            weight = integer(entry.get("weight"), f"{where}.weight")
            backend = self.destination(entry.get("destination"), f"{where}.destination")
            headers = header_filter(entry.get("headers"), f"{where}.headers")
            if len(destinations) == 1 or weight:
                filters = (headers,) if headers else ()
                backends.append(
                    msgspec.structs.replace(backend, weight=weight or 1, filters=filters)
                )
        if not backends:
            raise UnusableError(field, "no destination with a weight above 0")
        return Forward(tuple(backends))

    def destination(self, raw: Any, field: str) -> Backend:
        """A destination. Raises UnusableError."""
        spec = mapping(raw, field)
        host = string(spec.get("host"), f"{field}.host")
        if not host:
            raise UnusableError(f"{field}.host", "required")
        port = mapping(spec.get("port"), f"{field}.port")
        return Backend(
            service=self._place.resolve(host, self._namespace),
            subset=string(spec.get("subset"), f"{field}.subset"),
            port=integer(port.get("number"), f"{field}.port.number") or None,
        )

    def _mirrors(self, rule: Json, field: str) -> tuple[Mirror, ...]:
        found: list[Mirror] = []
        try:
            if rule.get("mirror") is not None:
                share = fraction(rule.get("mirrorPercentage"), f"{field}.mirrorPercentage")
                if share is None:
                    old = integer(rule.get("mirrorPercent"), f"{field}.mirrorPercent", 100)
                    share = min(old, 100) / 100
                found.append(Mirror(self.destination(rule.get("mirror"), f"{field}.mirror"), share))
            for index, item in enumerate(sequence(rule.get("mirrors"), f"{field}.mirrors")):
                where = f"{field}.mirrors[{index}]"
                entry = mapping(item, where)
                share = fraction(entry.get("percentage"), f"{where}.percentage")
                backend = self.destination(entry.get("destination"), f"{where}.destination")
                found.append(Mirror(backend, 1.0 if share is None else share))
        except UnusableError as bad:
            self.problem(bad, "the copy is not sent")
        return tuple(mirror for mirror in found if mirror.share)


def _filters(rule: Json, field: str) -> Callable[[Json], tuple[Filter, ...]]:
    rewrite = mapping(rule.get("rewrite"), f"{field}.rewrite")
    headers = header_filter(rule.get("headers"), f"{field}.headers")
    shared: tuple[Filter, ...] = (headers,) if headers else ()
    authority = string(rewrite.get("authority"), f"{field}.rewrite.authority") or None
    uri = string(rewrite.get("uri"), f"{field}.rewrite.uri")
    edit = _regex_edit(rewrite.get("uriRegexRewrite"), f"{field}.rewrite.uriRegexRewrite")

    def filters(match: Json) -> tuple[Filter, ...]:
        path: PathEdit | RegexEdit | None = edit
        if path is None and uri:
            path = PathEdit(replacement=uri, prefix=_matched_prefix(match))
        if authority is None and path is None:
            return shared
        return (*shared, UrlRewrite(authority=authority, path=path))

    return filters


def _regex_edit(raw: Any, field: str) -> RegexEdit | None:
    if raw is None:
        return None
    spec = mapping(raw, field)
    pattern = string(spec.get("match"), f"{field}.match")
    rewrite = string(spec.get("rewrite"), f"{field}.rewrite")
    if not pattern or not rewrite:
        raise UnusableError(field, "needs match and rewrite")
    check_regex(pattern, f"{field}.match")
    compiled = re2.compile(pattern, regex_options())
    try:
        compiled.sub(rewrite, "")
        for group in _groups(rewrite):
            if group > compiled.groups:
                raise UnusableError(f"{field}.rewrite", f"there is no group {group} in match")
    except re2.error:
        raise UnusableError(f"{field}.rewrite", f"{rewrite!r} is no replacement") from None
    return RegexEdit(compiled, rewrite)


def _groups(rewrite: str) -> list[int]:
    """Numbers behind single backslashes."""
    parts = rewrite.replace("\\\\", "").split("\\")[1:]
    return [int(part[0]) for part in parts if part[:1].isdigit()]


def _matched_prefix(match: Json) -> str | None:
    """What a rewrite of the path replaces: the matched text, or None for the whole path."""
    uri = match.get("uri")
    if not isinstance(uri, dict) or "regex" in uri:
        return None if isinstance(uri, dict) else "/"
    if "exact" in uri:
        return None
    return str(uri.get("prefix", "/"))


def _redirect(spec: Json, field: str) -> Redirect:
    status = integer(spec.get("redirectCode"), f"{field}.redirectCode") or 301
    if status not in REDIRECT_CODES:
        raise UnusableError(f"{field}.redirectCode", f"{status} is not one of {REDIRECT_CODES}")
    derive = string(spec.get("derivePort"), f"{field}.derivePort")
    if derive not in ("", "FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"):
        raise UnusableError(f"{field}.derivePort", f"{derive!r} is not known")
    uri = string(spec.get("uri"), f"{field}.uri")
    return Redirect(
        status=status,
        scheme=string(spec.get("scheme"), f"{field}.scheme") or None,
        host=string(spec.get("authority"), f"{field}.authority") or None,
        port=integer(spec.get("port"), f"{field}.port") or None,
        request_port=derive == "FROM_REQUEST_PORT",
        drop_port=derive == "FROM_PROTOCOL_DEFAULT",
        path=PathEdit(replacement=uri) if uri else None,
    )


def _redirect_for(fixed: Redirect, prefix: str) -> Callable[[Json], Action]:
    def action(match: Json) -> Action:
        if not prefix:
            return fixed
        edit = PathEdit(replacement=prefix, prefix=_matched_prefix(match))
        return msgspec.structs.replace(fixed, path=edit)

    return action


def _direct(spec: Json, field: str) -> Reply:
    status = integer(spec.get("status"), f"{field}.status")
    if not 200 <= status <= 599:
        raise UnusableError(f"{field}.status", f"{status} is not a final HTTP status")
    body = mapping(spec.get("body"), f"{field}.body")
    text = string(body.get("string"), f"{field}.body.string")
    encoded = string(body.get("bytes"), f"{field}.body.bytes")
    if encoded:
        try:
            text = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise UnusableError(f"{field}.body.bytes", "is not text in base64") from None
    if len(text.encode()) > LARGEST_BODY:
        raise UnusableError(f"{field}.body", f"is longer than {LARGEST_BODY} bytes")
    return Reply(status, text, "-", "direct_response")
