"""Rules of HTTPRoute and GRPCRoute: filters, backends, timeouts, retries, persistence."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from ambient.api.config import ConfigObject
from ambient.api.service import NamespacedHostname
from waypoint.core.cors import CorsPolicy, compile_gateway_cors
from waypoint.core.external_auth import compile_external_auth
from waypoint.core.filters import (
    Filter,
    HeaderEdits,
    HeaderFilter,
    PathEdit,
    Redirect,
    UrlRewrite,
)
from waypoint.core.local_reply import BACKEND_INVALID
from waypoint.core.message import Reply
from waypoint.core.objects import (
    Json,
    Problem,
    UnusableError,
    duration_s,
    integer,
    mapping,
    number,
    sequence,
    string,
    strings,
)
from waypoint.core.place import Place
from waypoint.core.providers import ExtAuthz
from waypoint.core.retry_policy import DEFAULT, RetryPolicy, compile_gateway_retry
from waypoint.core.routes import Action, Backend, DirectResponse, Forward, Mirror
from waypoint.core.session import Session, compile_session

ISTIO_GROUP: Final = "networking.istio.io"
MCS_GROUP: Final = "multicluster.x-k8s.io"
MCS_DOMAIN: Final = "clusterset.local"
MISSING_STATUS: Final = 500
"""Gateway API: a reference that leads nowhere answers 500."""
HTTP_FILTERS: Final = (
    "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect",
    "URLRewrite", "CORS", "ExternalAuth",
)  # fmt: skip
GRPC_FILTERS: Final = HTTP_FILTERS[:3]
BACKEND_FILTERS: Final = (*HTTP_FILTERS[:2], "URLRewrite")


class Effects(NamedTuple):
    """What a rule does with the requests that it matches."""

    action: Action
    filters: tuple[Filter, ...] = ()
    timeout_s: float | None = None
    retries: RetryPolicy = DEFAULT
    cors: CorsPolicy | None = None
    mirrors: tuple[Mirror, ...] = ()
    session: Session | None = None
    authorizers: tuple[ExtAuthz, ...] = ()


BROKEN: Final = Effects(DirectResponse(Reply(MISSING_STATUS, "", "-", "invalid_route")))
"""Of a rule that cannot be followed."""


class _Filters(NamedTuple):
    """What a list of filters amounts to."""

    filters: tuple[Filter, ...] = ()
    redirect: Redirect | None = None
    cors: CorsPolicy | None = None
    mirrors: tuple[Mirror, ...] = ()
    authorizers: tuple[ExtAuthz, ...] = ()


class GatewayRuleReader:
    """Reads the rules of one route; what cannot be used becomes a problem."""

    def __init__(self, config: ConfigObject, place: Place) -> None:
        self._config = config
        self._place = place
        self.problems: list[Problem] = []

    def problem(self, field: str, reason: str, effect: str) -> None:
        """Note what is not enforced as written; once, although a rule is read for every match."""
        problem = Problem(self._config.key, field, reason, effect)
        if problem not in self.problems:
            self.problems.append(problem)

    def effects(
        self, rule: Json, field: str, prefix: str = "/", allowed: tuple[str, ...] = HTTP_FILTERS
    ) -> Effects:
        """What a rule does; ``prefix`` is the path that its match found. Raises UnusableError."""
        found = self._filters(rule.get("filters"), f"{field}.filters", prefix, allowed)
        timeouts = mapping(rule.get("timeouts"), f"{field}.timeouts")
        per_try_s = duration_s(timeouts.get("backendRequest"), f"{field}.timeouts.backendRequest")
        retries = compile_gateway_retry(rule.get("retry"), f"{field}.retry")
        action: Action
        if found.redirect is not None:
            action = found.redirect
        else:
            backends = self.backends(rule.get("backendRefs"), f"{field}.backendRefs", prefix)
            action = Forward(backends) if backends else DirectResponse(BACKEND_INVALID)
        return Effects(
            action,
            found.filters,
            duration_s(timeouts.get("request"), f"{field}.timeouts.request"),
            msgspec.structs.replace(retries, per_try_s=per_try_s),
            found.cors,
            found.mirrors,
            compile_session(rule.get("sessionPersistence"), f"{field}.sessionPersistence"),
            found.authorizers,
        )

    def backends(self, raw: Any, field: str, prefix: str = "/") -> tuple[Backend, ...]:
        """The backends that get something. Raises UnusableError."""
        return tuple(
            backend
            for number, item in enumerate(sequence(raw, field))
            if (backend := self.backend(item, f"{field}[{number}]", prefix)).weight
        )

    def backend(self, raw: Any, field: str, prefix: str = "/") -> Backend:
        """A backendRef; one that cannot work is marked invalid. Raises UnusableError."""
        ref = mapping(raw, field)
        weight = ref.get("weight")
        kind = string(ref.get("kind"), f"{field}.kind", "Service")
        group = string(ref.get("group"), f"{field}.group")
        name = string(ref.get("name"), f"{field}.name")
        if not name:
            raise UnusableError(f"{field}.name", "required")
        namespace = string(ref.get("namespace"), f"{field}.namespace") or self._config.namespace
        filters = self._filters(ref.get("filters"), f"{field}.filters", prefix, BACKEND_FILTERS)
        invalid = None
        match group, kind:
            case ("" | "core", "Service"):
                host = self._place.service_host(name, namespace)
            case (group, "Hostname") if group == ISTIO_GROUP:
                host = name
            case (group, "ServiceImport") if group == MCS_GROUP:
                host = f"{name}.{namespace}.svc.{MCS_DOMAIN}"
            case _:
                host, invalid = name, BACKEND_INVALID
                self.problem(
                    f"{field}.kind", f"{group}/{kind} is not supported", "its share gets 500"
                )
        return Backend(
            service=NamespacedHostname(namespace, host),
            port=integer(ref.get("port"), f"{field}.port") or None,
            weight=1 if weight is None else integer(weight, f"{field}.weight"),
            filters=filters.filters,
            invalid=invalid,
            missing_status=MISSING_STATUS,
        )

    def _filters(self, raw: Any, field: str, prefix: str, allowed: tuple[str, ...]) -> _Filters:
        filters: list[Filter] = []
        mirrors: list[Mirror] = []
        redirect: Redirect | None = None
        cors: CorsPolicy | None = None
        authorizers: list[ExtAuthz] = []
        for index, item in enumerate(sequence(raw, field)):
            where = f"{field}[{index}]"
            spec = mapping(item, where)
            kind = string(spec.get("type"), f"{where}.type")
            if kind not in allowed:
                raise UnusableError(where, f"filter {kind!r} is not supported here")
            match kind:
                case "RequestHeaderModifier":
                    edits, authority = _edits(spec.get("requestHeaderModifier"), where)
                    filters.append(HeaderFilter(request=edits, authority=authority))
                case "ResponseHeaderModifier":
                    edits, _ = _edits(spec.get("responseHeaderModifier"), where)
                    filters.append(HeaderFilter(response=edits))
                case "URLRewrite":
                    filters.append(_rewrite(spec.get("urlRewrite"), where, prefix))
                case "RequestRedirect":
                    redirect = _redirect(spec.get("requestRedirect"), where, prefix)
                case "RequestMirror":
                    try:
                        mirrors.append(self._mirror(spec.get("requestMirror"), where))
                    except UnusableError as bad:
                        self.problem(bad.field, bad.reason, "the copy is not sent")
                case "ExternalAuth":
                    authorizers.append(self._authorizer(spec.get("externalAuth"), where))
                case _:
                    cors = compile_gateway_cors(spec.get("cors"), f"{where}.cors")
        copies = tuple(mirror for mirror in mirrors if mirror.share)
        return _Filters(tuple(filters), redirect, cors, copies, tuple(authorizers))

    def _authorizer(self, raw: Any, owner: str) -> ExtAuthz:
        field = f"{owner}.externalAuth"
        spec = mapping(raw, field)
        backend = self.backend(spec.get("backendRef"), f"{field}.backendRef")
        return compile_external_auth(spec, field, backend)

    def _mirror(self, raw: Any, owner: str) -> Mirror:
        field = f"{owner}.requestMirror"
        spec = mapping(raw, field)
        backend = self.backend(spec.get("backendRef"), f"{field}.backendRef")
        percent = number(spec.get("percent"), f"{field}.percent")
        part = mapping(spec.get("fraction"), f"{field}.fraction")
        if part:
            above = integer(part.get("numerator"), f"{field}.fraction.numerator")
            below = integer(part.get("denominator"), f"{field}.fraction.denominator", 100)
            if not below or above > below:
                raise UnusableError(f"{field}.fraction", f"{above}/{below} is no part of 1")
            return Mirror(backend, above / below)
        if percent is not None and percent > 100:
            raise UnusableError(f"{field}.percent", f"{percent:g} is more than 100")
        return Mirror(backend, 1.0 if percent is None else percent / 100)


def _edits(raw: Any, field: str) -> tuple[HeaderEdits, str | None]:
    spec = mapping(raw, field)
    authority: str | None = None
    pairs: dict[str, list[tuple[str, str]]] = {"set": [], "add": []}
    for kind, found in pairs.items():
        for index, item in enumerate(sequence(spec.get(kind), f"{field}.{kind}")):
            entry = mapping(item, f"{field}.{kind}[{index}]")
            name = string(entry.get("name"), f"{field}.{kind}[{index}].name").lower()
            value = string(entry.get("value"), f"{field}.{kind}[{index}].value")
            if name == "host":
                authority = value
            else:
                found.append((name, value))
    removed = tuple(n.lower() for n in strings(spec.get("remove"), f"{field}.remove"))
    return HeaderEdits(put=tuple(pairs["set"]), add=tuple(pairs["add"]), remove=removed), authority


def _path_edit(raw: Any, field: str, prefix: str) -> PathEdit | None:
    spec = mapping(raw, field)
    match string(spec.get("type"), f"{field}.type"):
        case "":
            return None
        case "ReplaceFullPath":
            return PathEdit(replacement=string(spec.get("replaceFullPath"), field))
        case "ReplacePrefixMatch":
            value = string(spec.get("replacePrefixMatch"), field)
            return PathEdit(replacement=value, prefix=prefix, segments=True)
        case other:
            raise UnusableError(f"{field}.type", f"unknown kind of edit {other!r}")


def _rewrite(raw: Any, field: str, prefix: str) -> UrlRewrite:
    spec = mapping(raw, field)
    return UrlRewrite(
        authority=string(spec.get("hostname"), f"{field}.hostname") or None,
        path=_path_edit(spec.get("path"), f"{field}.path", prefix),
    )


def _redirect(raw: Any, field: str, prefix: str) -> Redirect:
    spec = mapping(raw, field)
    scheme = string(spec.get("scheme"), f"{field}.scheme") or None
    return Redirect(
        status=integer(spec.get("statusCode"), f"{field}.statusCode") or 302,
        scheme=scheme,
        host=string(spec.get("hostname"), f"{field}.hostname") or None,
        port=integer(spec.get("port"), f"{field}.port") or None,
        drop_port=scheme is not None,
        request_port=scheme is None,
        path=_path_edit(spec.get("path"), f"{field}.path", prefix),
    )
