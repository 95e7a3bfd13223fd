"""Actions of rate limits: each makes one entry of a descriptor (Envoy's ``RateLimit.Action``)."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, Final

from waypoint.core import claims
from waypoint.core.cel_program import compile_cel, printed
from waypoint.core.message import Request
from waypoint.core.objects import (
    Json,
    UnusableError,
    boolean,
    field_of,
    integer,
    mapping,
    sequence,
    string,
    unwrapped,
)
from waypoint.core.predicate import Test, regex_test
from waypoint.core.rate_limit import SKIPPED, Action, Entry

JWT: Final = "envoy.filters.http.jwt_authn"
PEER_KEY: Final = "remote_address"


def compile_action(action: Json, field: str) -> Action:
    """One entry of ``actions``. Raises UnusableError."""
    kind = next(iter(action), "")
    spec = mapping(action.get(kind), f"{field}.{kind}")
    where = f"{field}.{kind}"
    key = string(field_of(spec, "descriptor_key"), where)
    value = string(field_of(spec, "descriptor_value"), where)
    match kind:
        case "generic_key" | "genericKey":
            return lambda request, cluster: (key or "generic_key", value)
        case "remote_address" | "remoteAddress":
            return lambda request, cluster: (PEER_KEY, str(request.remote_ip))
        case "masked_remote_address" | "maskedRemoteAddress":
            return _masked(spec, where)
        case "destination_cluster" | "destinationCluster":
            return lambda request, cluster: ("destination_cluster", cluster)
        case "source_cluster" | "sourceCluster":
            return lambda request, cluster: ("source_cluster", _source(request))
        case "request_headers" | "requestHeaders":
            return _header(spec, key, where)
        case "query_parameters" | "queryParameters":
            return _query(spec, key, where)
        case "header_value_match" | "headerValueMatch":
            return _match(spec, "headers", key or "header_match", value, where)
        case "query_parameter_value_match" | "queryParameterValueMatch":
            return _match(spec, "query_parameters", key or "query_match", value, where)
        case "metadata" | "dynamic_metadata" | "dynamicMetadata":
            return _metadata(spec, key, where)
        case "extension":
            return _expression(spec, where)
        case _:
            raise UnusableError(where, "this action is not supported")


EXPRESSION: Final = "envoy.rate_limit_descriptors.expr"


def _expression(spec: Json, field: str) -> Action:
    """``envoy.rate_limit_descriptors.expr``: CEL over what is known of the request by now."""
    if spec.get("name") != EXPRESSION:
        raise UnusableError(f"{field}.name", f"only {EXPRESSION} is supported")
    config = unwrapped(field_of(spec, "typed_config"), field)
    key = string(field_of(config, "descriptor_key"), f"{field}.descriptor_key")
    if not key:
        raise UnusableError(f"{field}.descriptor_key", "required")
    skip = boolean(field_of(config, "skip_if_error"), f"{field}.skip_if_error")
    evaluate = compile_cel(string(config.get("text"), f"{field}.text"), f"{field}.text")

    def find(request: Request, cluster: str) -> Entry | None:
        try:
            value = printed(evaluate(_attributes(request, cluster)))
        except ValueError:
            value = ""
        return (key, value) if value else (SKIPPED if skip else None)

    return find


def _attributes(request: Request, cluster: str) -> dict[str, Any]:
    """Envoy's attributes before the request is sent on."""
    path, _, query = request.target.partition("?")
    headers = {name: request.headers.get(name) for name, _ in request.headers}
    identity = request.peer.identity
    return {
        "request": {
            "path": request.target, "url_path": path, "query": query,
            "host": request.authority, "method": request.method, "scheme": request.scheme,
            "headers": headers, "id": headers.get("x-request-id", ""),
            "referer": headers.get("referer", ""), "useragent": headers.get("user-agent", ""),
        },
        "source": {"address": f"{request.remote_ip}:{request.peer.port}",
                   "port": request.peer.port},
        "destination": {"address": str(request.local), "port": request.local.port},
        "connection": {"mtls": identity is not None, "requested_server_name": request.sni,
                       "uri_san_peer_certificate": str(identity or "")},
        "xds": {"cluster_name": cluster},
        "metadata": {"filter_metadata": {k: dict(v) for k, v in request.metadata.items()}},
    }  # fmt: skip


def _source(request: Request) -> str:
    identity = request.peer.identity
    return f"{identity.service_account}.{identity.namespace}" if identity is not None else ""


def _masked(spec: Json, field: str) -> Action:
    lengths = {
        version: integer(_unwrapped(field_of(spec, f"v{version}_prefix_mask_len"), field),
                         f"{field}.v{version}_prefix_mask_len", most)
        for version, most in ((4, 32), (6, 128))
    }  # fmt: skip
    if lengths[4] > 32 or lengths[6] > 128:
        raise UnusableError(field, "needs prefixes of 32 (IPv4) and 128 (IPv6) bits at most")

    def find(request: Request, cluster: str) -> Entry:
        ip = request.remote_ip
        return ("masked_remote_address", str(ip_network((ip, lengths[ip.version]), strict=False)))

    return find


def _unwrapped(raw: Any, field: str) -> Any:
    """A wrapped number of protobuf, in either of its forms."""
    return mapping(raw, field).get("value") if isinstance(raw, dict) else raw


def _header(spec: Json, key: str, field: str) -> Action:
    name = string(field_of(spec, "header_name"), field).lower()
    skip = boolean(field_of(spec, "skip_if_absent"), f"{field}.skip_if_absent")
    if not name or not key:
        raise UnusableError(field, "needs header_name and descriptor_key")

    def find(request: Request, cluster: str) -> Entry | None:
        value = header_value(request, name)
        return (SKIPPED if skip else None) if value is None else (key, value)

    return find


def header_value(request: Request, name: str) -> str | None:
    """The first value of a header field, or a pseudo-header."""
    match name:
        case ":path":
            return request.target
        case ":method":
            return request.method
        case ":authority" | "host":
            return request.authority
        case ":scheme":
            return request.scheme
        case _:
            return request.headers.first(name)


def _query(spec: Json, key: str, field: str) -> Action:
    name = string(field_of(spec, "query_parameter_name"), field)
    skip = boolean(field_of(spec, "skip_if_absent"), f"{field}.skip_if_absent")
    if not name or not key:
        raise UnusableError(field, "needs query_parameter_name and descriptor_key")

    def find(request: Request, cluster: str) -> Entry | None:
        value = request.query_value(name)
        return (SKIPPED if skip else None) if value is None else (key, value)

    return find


def _match(spec: Json, part: str, key: str, value: str, field: str) -> Action:
    """``header_value_match`` and ``query_parameter_value_match``: all tests, or not all."""
    tests = [
        _part_test(mapping(one, where), part, where)
        for index, one in enumerate(sequence(field_of(spec, part), field))
        for where in [f"{field}.{part}[{index}]"]
    ]
    if not tests:
        raise UnusableError(f"{field}.{part}", "required")
    expected = field_of(spec, "expect_match") is not False

    def find(request: Request, cluster: str) -> Entry | None:
        return (key, value) if all(test(request) for test in tests) is expected else None

    return find


def _part_test(spec: Json, part: str, field: str) -> Callable[[Request], bool]:
    name = string(spec.get("name"), f"{field}.name")
    if not name:
        raise UnusableError(f"{field}.name", "required")
    test = _value_test(spec, field)
    present = field_of(spec, "present_match")
    inverted = boolean(field_of(spec, "invert_match"), f"{field}.invert_match")
    empty = boolean(field_of(spec, "treat_missing_header_as_empty"), field)
    header = name.lower() if part == "headers" else ""

    def passes(request: Request) -> bool:
        value = _joined(request, header) if header else request.query_value(name)
        if value is None and not empty:
            return (present is False) is not inverted
        if test is None:
            return (present is not False) is not inverted
        return test(value or "") is not inverted

    return passes


def _joined(request: Request, name: str) -> str | None:
    """All values of a header: they are compared as one."""
    return header_value(request, name) if name[0] == ":" else (
        request.authority if name == "host" else request.headers.get(name)
    )  # fmt: skip


def _value_test(spec: Json, field: str) -> Test | None:
    """A ``HeaderMatcher`` or ``QueryParameterMatcher``; None where presence is all that counts."""
    text = mapping(field_of(spec, "string_match"), f"{field}.string_match")
    forms = {"exact", "prefix", "suffix", "contains"}
    found = {one: text.get(one) for one in forms if one in text}
    found |= {one: old for one in forms if (old := field_of(spec, f"{one}_match")) is not None}
    regex = field_of(text, "safe_regex") or field_of(spec, "safe_regex_match")
    span = field_of(spec, "range_match")
    known = len(found) + (regex is not None) + (span is not None)
    if known > 1 or (text and not known) or (known and field_of(spec, "present_match") is not None):
        raise UnusableError(field, "needs one kind of match")
    if regex is not None:
        pattern = mapping(regex, field).get("regex")
        return regex_test(string(pattern, f"{field}.safe_regex"), f"{field}.safe_regex")
    if span is not None:
        return _range(mapping(span, field), field)
    for kind, raw in found.items():
        ignore = boolean(field_of(text, "ignore_case"), f"{field}.ignore_case")
        return _text_test(kind, string(raw, f"{field}.{kind}"), ignore)
    return None


def _text_test(kind: str, wanted: str, ignore_case: bool) -> Test:
    if ignore_case:
        inner = _text_test(kind, wanted.lower(), False)
        return lambda value: inner(value.lower())
    return {
        "exact": lambda value: value == wanted,
        "prefix": lambda value: value.startswith(wanted),
        "suffix": lambda value: value.endswith(wanted),
        "contains": lambda value: wanted in value,
    }[kind]


def _range(spec: Json, field: str) -> Test:
    try:
        start, end = (int(spec.get(name, 0)) for name in ("start", "end"))
    except (ValueError, TypeError):
        raise UnusableError(f"{field}.range_match", "needs start and end as numbers") from None

    def within(value: str) -> bool:
        digits = value.removeprefix("-")
        return digits.isascii() and digits.isdigit() and len(digits) < 20 and (
            start <= int(value) < end
        )  # fmt: skip

    return within


def noted(raw: Any, field: str) -> Callable[[Request], Any]:
    """What filters noted of a request at a ``metadata_key``; claims are those of jwt_authn."""
    source = mapping(raw, field)
    name = string(source.get("key"), f"{field}.key")
    path = tuple(
        string(mapping(one, field).get("key"), f"{field}.path")
        for one in sequence(source.get("path"), f"{field}.path")
    )
    if not name or not path:
        raise UnusableError(field, "needs key and path")

    def find(request: Request) -> Any:
        if name == JWT and request.claims is not None:
            return claims.at({"payload": request.claims}, path)
        return claims.at(request.metadata.get(name), path)

    return find


def _metadata(spec: Json, key: str, field: str) -> Action:
    if spec.get("source") == "ROUTE_ENTRY":
        raise UnusableError(f"{field}.source", "routes of a waypoint have no metadata")
    find = noted(field_of(spec, "metadata_key"), f"{field}.metadata_key")
    default = string(field_of(spec, "default_value"), f"{field}.default_value")
    skip = boolean(field_of(spec, "skip_if_absent"), f"{field}.skip_if_absent")
    if not key:
        raise UnusableError(f"{field}.descriptor_key", "required")

    def entry(request: Request, cluster: str) -> Entry | None:
        value = find(request)
        text = value if isinstance(value, str) and value else default
        return (key, text) if text else (SKIPPED if skip else None)

    return entry
