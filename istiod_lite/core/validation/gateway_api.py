"""Gateways and routes of the Gateway API, as far as a schema cannot say it."""

from __future__ import annotations

from typing import Final

from istiod_lite.core.validation.report import Field

WAYPOINT_CLASS: Final = "istio-waypoint"
HBONE: Final = "HBONE"
HBONE_PORT: Final = 15008
WAYPOINT_FOR: Final = ("service", "workload", "all", "none")
WAYPOINT_FOR_LABEL: Final = "istio.io/waypoint-for"
PARENT_KINDS: Final = ("Gateway", "Service", "ServiceEntry")
FILTERS: Final = (
    "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect",
    "URLRewrite", "ExtensionRef", "CORS", "ExternalAuth",
)  # fmt: skip
_REGULAR: Final = "RegularExpression"


def gateway(root: Field) -> None:
    """A waypoint, or a gateway of another controller, which is not ours to judge."""
    spec = root["spec"]
    spec["gatewayClassName"].required("name the class; a waypoint is of class istio-waypoint")
    if spec["gatewayClassName"].text() != WAYPOINT_CLASS:
        return
    listeners = spec["listeners"].items()
    if len(listeners) != 1:
        spec["listeners"].wrong(
            f"has {len(listeners)} listeners", "a waypoint has one: mesh, port 15008, HBONE"
        )
    for listener in listeners:
        if listener["protocol"].text() != HBONE or listener["port"].value != HBONE_PORT:
            listener.wrong(
                f"is {listener['protocol'].value} on port {listener['port'].value}",
                f"a waypoint listens for {HBONE} on port {HBONE_PORT}",
            )
    label = root["metadata"]["labels"][WAYPOINT_FOR_LABEL]
    label.one_of(WAYPOINT_FOR)
    if root["metadata"]["name"].value == "none":
        root["metadata"]["name"].wrong(
            "a waypoint cannot be called none", "the label value none means: no waypoint"
        )


def http_route(root: Field) -> None:
    """HTTPRoute."""
    spec = root["spec"]
    _parents(spec)
    for rule in spec["rules"].items():
        for match in rule["matches"].items():
            path = match["path"]
            kind, value = path["type"].text() or "PathPrefix", path["value"].text()
            if kind == _REGULAR:
                path["value"].pattern()
            elif path["value"].given and not value.startswith("/"):
                path["value"].wrong(f"{value!r} never matches", "paths begin with /")
            _named_matches(match)
        redirects = [one for one in rule["filters"].items() if one["type"].value == FILTERS[3]]
        if redirects and rule["backendRefs"].given:
            rule["backendRefs"].wrong("a redirect calls no backend", "remove one of the two")
        rule["timeouts"]["request"].duration()
        rule["timeouts"]["backendRequest"].duration()
        for code in rule["retry"]["codes"].items():
            code.integer(400, 599)
        rule["retry"]["attempts"].integer(0, 1000)
        rule["retry"]["backoff"].duration()
        session(rule["sessionPersistence"])
        _filters(rule)
        _backends(rule)


def grpc_route(root: Field) -> None:
    """GRPCRoute."""
    spec = root["spec"]
    _parents(spec)
    for rule in spec["rules"].items():
        for match in rule["matches"].items():
            method = match["method"]
            if method.present and not method["service"].given and not method["method"].given:
                method.wrong("names neither service nor method", "name one of them")
            if method["type"].value == _REGULAR:
                method["service"].pattern()
                method["method"].pattern()
            _named_matches(match)
        session(rule["sessionPersistence"])
        _filters(rule)
        _backends(rule)


def stream_route(root: Field) -> None:
    """TCPRoute and TLSRoute."""
    spec = root["spec"]
    _parents(spec)
    if not spec["rules"].items():
        spec["rules"].wrong("is missing", "say where connections go")
    for rule in spec["rules"].items():
        rule["backendRefs"].required("say where connections go")
        _backends(rule)


def reference_grant(root: Field) -> None:
    """ReferenceGrant: who may refer to what."""
    for entry in root["spec"]["from"].items():
        entry["kind"].required("name the kind that refers")
        entry["namespace"].required("name the namespace from where")
    for entry in root["spec"]["to"].items():
        entry["kind"].required("name the kind that is referred to")
    for name in ("from", "to"):
        root["spec"][name].required("a grant names both sides")


def _parents(spec: Field) -> None:
    for parent in spec["parentRefs"].items():
        parent["name"].required("name the Gateway or Service")
        kind = parent["kind"].text() or "Gateway"
        if kind not in PARENT_KINDS:
            parent["kind"].wrong(f"{kind!r} is not known", f"use {', '.join(PARENT_KINDS)}")
        if kind == "Service" and parent["group"].value is None:
            parent["group"].wrong(
                "is missing, which means gateway.networking.k8s.io", 'a Service is in group ""'
            )
        if parent["port"].present:
            parent["port"].port()


def _named_matches(match: Field) -> None:
    for name in ("headers", "queryParams"):
        for one in match[name].items():
            one["name"].required("name what is compared")
            if one["type"].value == _REGULAR:
                one["value"].pattern()


def _filters(rule: Field) -> None:
    for one in rule["filters"].items():
        one["type"].one_of(FILTERS, required=True)
        mirror = one["requestMirror"]
        if one["type"].value == "RequestMirror":
            mirror["backendRef"]["name"].required("name the Service that gets the copy")
        mirror["percent"].integer(0, 100)
        if mirror["percent"].present and mirror["fraction"].given:
            mirror.wrong("has percent and fraction", "keep one of them")
        if one["type"].value == "ExternalAuth":
            _external_auth(one["externalAuth"])
        one["cors"]["maxAge"].integer(1, 2**31 - 1)


def _external_auth(found: Field) -> None:
    """The filter of GEP-1494."""
    protocol = found["protocol"].one_of(("GRPC", "HTTP"), required=True)
    found["backendRef"]["name"].required("name the Service that is asked")
    found["backendRef"]["port"].required("name the Service's port")
    other = {"GRPC": "http", "HTTP": "grpc"}.get(protocol, "")
    if other and found[other].given:
        found[other].wrong(f"is for protocol {other.upper()}", "remove it, or change the protocol")
    found["forwardBody"]["maxSize"].integer(0, 2**31 - 1)
    path = found["http"]["path"]
    if path.given and not path.text().startswith("/"):
        path.wrong(f"{path.text()!r} is no path", "begin it with /")


def session(found: Field) -> None:
    """``sessionPersistence`` of a rule or a backend (GEP-1619)."""
    found["type"].one_of(("Cookie", "Header"))
    found["absoluteTimeout"].duration()
    found["idleTimeout"].duration()
    lifetime = found["cookieConfig"]["lifetimeType"].one_of(("Session", "Permanent"))
    if lifetime == "Permanent" and not found["absoluteTimeout"].given:
        found["absoluteTimeout"].wrong("is missing", "a permanent cookie needs it")


def _backends(rule: Field) -> None:
    for one in rule["backendRefs"].items():
        one["name"].required("name the Service")
        one["weight"].integer(0, 1_000_000)
        if (one["kind"].text() or "Service") == "Service":
            one["port"].required("name the Service's port")
        if one["port"].present:
            one["port"].port()
