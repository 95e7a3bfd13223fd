"""AuthorizationPolicy, PeerAuthentication, RequestAuthentication (istio pkg/config/validation)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from istiod_lite.core.validation.report import Field

ACTIONS: Final = ("ALLOW", "DENY", "AUDIT", "CUSTOM")
TARGET_GROUPS: Final = {
    "Service": "",
    "ServiceEntry": "networking.istio.io",
    "Gateway": "gateway.networking.k8s.io",
    "GatewayClass": "gateway.networking.k8s.io",
}
MTLS_MODES: Final = ("UNSET", "DISABLE", "PERMISSIVE", "STRICT")
_SOURCE: Final = (
    "principals", "requestPrincipals", "namespaces", "serviceAccounts", "ipBlocks",
    "remoteIpBlocks",
)  # fmt: skip
_OPERATION: Final = ("hosts", "ports", "methods", "paths")
_WHEN: Final = (
    "source.ip", "remote.ip", "source.namespace", "source.principal", "source.serviceAccount",
    "request.auth.principal", "request.auth.audiences", "request.auth.presenter",
    "destination.ip", "destination.port", "connection.sni",
)  # fmt: skip
_WHEN_MAPS: Final = ("request.headers[", "request.auth.claims[", "experimental.envoy.filters.")


def _with_opposites(names: tuple[str, ...]) -> frozenset[str]:
    """``hosts`` comes with ``notHosts``."""
    return frozenset({*names, *(f"not{one[0].upper()}{one[1:]}" for one in names)})


SOURCE_FIELDS: Final = _with_opposites(_SOURCE)
OPERATION_FIELDS: Final = _with_opposites(_OPERATION)


def authorization_policy(spec: Field) -> None:
    """Who may call whom."""
    spec.known({"action", "provider", "rules", "selector", "targetRef", "targetRefs"})
    action = spec["action"].one_of(ACTIONS) or "ALLOW"
    spec["selector"].selector()
    targets(spec)
    rules = spec["rules"].items()
    provider = spec["provider"]
    if action == "CUSTOM":
        provider["name"].required("CUSTOM asks a provider of the mesh configuration: name it")
        spec["rules"].required("CUSTOM needs to know for which requests to ask")
    elif provider.present:
        provider.wrong(f"does not belong to action {action}", "remove it, or use action CUSTOM")
    if action == "DENY" and not rules:
        spec["rules"].wrong(
            "is missing, so that nothing is ever denied",
            "give it rules; to deny everything, an ALLOW policy without rules",
        )
    for rule in rules:
        _rule(rule)


def targets(spec: Field) -> None:
    """What a waypoint applies a policy to."""
    said = [name for name in ("selector", "targetRef", "targetRefs") if spec[name].given]
    if len(said) > 1:
        spec.wrong(
            f"has {' and '.join(said)}, of which only one can hold",
            "use a selector for L4 at the node, or targetRefs for a waypoint",
        )
    references = [*spec["targetRefs"].items()]
    if spec["targetRef"].present:
        references.append(spec["targetRef"])
    for target in references:
        target.known({"group", "kind", "name", "namespace"})
        kind = target["kind"].one_of(TARGET_GROUPS, required=True)
        target["name"].required("name the object in this namespace")
        if target["namespace"].given:
            target["namespace"].wrong(
                "a policy only reaches its own namespace", "put the policy where its target is"
            )
        group = target["group"].text()
        if kind and group != TARGET_GROUPS[kind] and (kind, group) != ("Service", "core"):
            target["group"].wrong(
                f"{kind} is not in group {group!r}", f"use {TARGET_GROUPS[kind]!r}"
            )


def peer_authentication(spec: Field) -> None:
    """Whether plain text is accepted."""
    spec.known({"selector", "mtls", "portLevelMtls"})
    spec["selector"].selector()
    spec["mtls"].known({"mode"})
    spec["mtls"]["mode"].one_of(MTLS_MODES)
    ports = spec["portLevelMtls"]
    if ports.given and not spec["selector"]["matchLabels"].given:
        ports.wrong("needs a selector", "ports belong to workloads: select them by matchLabels")
    if ports.present and not ports.given:
        ports.wrong("is empty", "remove it, or name a port")
    for number, port in ports.entries():
        Field(number, port.path, port.report).port()
        port.known({"mode"})
        port["mode"].one_of(MTLS_MODES)


def request_authentication(spec: Field) -> None:
    """Whose tokens are believed."""
    spec.known({"selector", "targetRef", "targetRefs", "jwtRules"})
    spec["selector"].selector()
    targets(spec)
    for rule in spec["jwtRules"].items():
        _token_rule(rule)


_TOKEN_RULE: Final = {
    "issuer", "audiences", "jwksUri", "jwks_uri", "jwks", "fromHeaders", "fromParams",
    "fromCookies", "outputPayloadToHeader", "outputClaimToHeaders", "forwardOriginalToken",
    "timeout", "spaceDelimitedClaims",
}  # fmt: skip


def _token_rule(rule: Field) -> None:
    rule.known(_TOKEN_RULE)
    uri = rule["jwksUri"] if rule["jwksUri"].given else rule["jwks_uri"]
    if not uri.given and not rule["jwks"].given:
        rule["issuer"].required("it is compared with the token's iss, and names the keys")
    if rule["jwks"].given and uri.given:
        rule.wrong("has jwks and jwksUri", "keep one of them")
    if (text := uri.text()) and not text.startswith(("https://", "http://")):
        uri.wrong(f"{text!r} is no URL", "use https://...")
    rule["timeout"].duration()
    for name in ("audiences", "fromParams", "fromCookies", "spaceDelimitedClaims"):
        for one in rule[name].items():
            one.required("it cannot be empty")
    for header in rule["fromHeaders"].items():
        header.known({"name", "prefix"})
        header["name"].required("name the header that carries the token")
    for output in rule["outputClaimToHeaders"].items():
        output.known({"header", "claim"})
        output["claim"].required("name the claim")
        if output["header"].required("name the header") and not re.fullmatch(
            r"[-_A-Za-z0-9]+", output["header"].text()
        ):
            output["header"].wrong("is no name of a header", "use letters, digits, - and _")


def _rule(rule: Field) -> None:
    rule.known({"from", "to", "when"})
    for name in ("from", "to", "when"):
        if rule[name].present and not rule[name].given:
            rule[name].wrong("is empty, which never matches", "remove it, or fill it")
    for entry in rule["from"].items():
        entry.known({"source"})
        source = entry["source"]
        if source.required("an empty source never matches: say who may call"):
            _source(source)
    for entry in rule["to"].items():
        entry.known({"operation"})
        operation = entry["operation"]
        if operation.required("an empty operation never matches: say what may be called"):
            _operation(operation)
    for condition in rule["when"].items():
        _condition(condition)


def _source(source: Field) -> None:
    source.known(SOURCE_FIELDS)
    _filled(source, SOURCE_FIELDS)
    accounts = [one for one in ("serviceAccounts", "notServiceAccounts") if source[one].given]
    others = ("principals", "notPrincipals", "namespaces", "notNamespaces")
    clash = [one for one in others if source[one].given]
    if accounts and clash:
        source.wrong(
            f"has {accounts[0]} and {clash[0]}, which cannot be combined",
            "a service account already says the namespace",
        )
    for name in ("serviceAccounts", "notServiceAccounts"):
        for account in source[name].items():
            if account.text().count("/") > 1 or "*" in account.text():
                account.wrong(f"{account.value!r} is no account", "use namespace/name or name")
    for name in ("ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"):
        for block in source[name].items():
            block.address()
    for name in ("principals", "notPrincipals"):
        for principal in source[name].items():
            if principal.text().startswith("spiffe://"):
                principal.wrong(
                    f"{principal.value!r} never matches",
                    "principals are written without spiffe://",
                )


def _operation(operation: Field) -> None:
    operation.known(OPERATION_FIELDS)
    _filled(operation, OPERATION_FIELDS)
    for name in ("ports", "notPorts"):
        for port in operation[name].items():
            port.port()
    for name in ("paths", "notPaths"):
        for path in operation[name].items():
            text = path.text()
            if text and not text.startswith(("/", "*")) and not text.endswith("*"):
                path.wrong(f"{text!r} never matches", "paths begin with /")


def _condition(condition: Field) -> None:
    condition.known({"key", "values", "notValues"})
    key = condition["key"].text()
    if key not in _WHEN and not (key.startswith(_WHEN_MAPS) and _closed(key)):
        condition["key"].wrong(
            f"{key!r} is not known" if key else "is missing",
            f"use one of {', '.join(_WHEN)}, request.headers[NAME], request.auth.claims[NAME]",
        )
    if not condition["values"].given and not condition["notValues"].given:
        condition.wrong("has neither values nor notValues", "say what the key is compared with")
    if key in ("source.ip", "remote.ip", "destination.ip"):
        for value in _values(condition):
            value.address()
    if key == "destination.port":
        for value in _values(condition):
            value.port()


def _values(condition: Field) -> Iterator[Field]:
    yield from condition["values"].items()
    yield from condition["notValues"].items()


def _filled(field: Field, names: frozenset[str]) -> None:
    """A list without an entry, or with an empty one, is a slip that changes the meaning."""
    for name in names & set(field.value if isinstance(field.value, dict) else ()):
        if not field[name].given:
            field[name].wrong("is empty", "remove it, or name values")
        for one in field[name].items():
            if not one.text():
                one.wrong("is empty", "remove it")


def _closed(key: str) -> bool:
    return key.startswith("experimental.") or (key.endswith("]") and not key.endswith("[]"))
