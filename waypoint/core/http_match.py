"""HTTPMatchRequest of a VirtualService into tests of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from waypoint.core import claims
from waypoint.core.message import Request
from waypoint.core.objects import Json, UnusableError, integer, mapping, string, strings
from waypoint.core.predicate import Predicate, Test, string_match

MESH: Final = "mesh"
"""The gateway that means the mesh itself."""


def compile_match(match: Json, field: str) -> tuple[int | None, tuple[Predicate, ...]]:
    """The port that an entry is limited to, and its tests."""
    ignore_case = match.get("ignoreUriCase") is True
    found: list[Predicate] = []
    if match.get("sourceLabels"):
        raise UnusableError(f"{field}.sourceLabels", "not tested by waypoints")
    if MESH not in (strings(match.get("gateways"), f"{field}.gateways") or (MESH,)):
        raise UnusableError(f"{field}.gateways", "does not contain mesh")
    uri = string_match(match.get("uri"), f"{field}.uri", ignore_case=ignore_case)
    if uri and match.get("uri") != {"prefix": "/"} and match.get("uri") != {"regex": ".*"}:
        found.append(Predicate("uri", lambda request: uri(request.path)))
    _add_simple(found, match, field)
    namespace = string(match.get("sourceNamespace"), f"{field}.sourceNamespace")
    if namespace:
        found.append(
            Predicate(
                "sourceNamespace",
                lambda request: (
                    request.peer.identity is not None
                    and request.peer.identity.namespace == namespace
                ),
            )
        )
    for key, raw in mapping(match.get("headers"), f"{field}.headers").items():
        found.append(_header(key, raw, f"{field}.headers"))
    for key, raw in mapping(match.get("withoutHeaders"), f"{field}.withoutHeaders").items():
        found.append(_without_header(key, raw, f"{field}.withoutHeaders"))
    for key, raw in mapping(match.get("queryParams"), f"{field}.queryParams").items():
        found.append(_query(key, raw, f"{field}.queryParams"))
    port = integer(match.get("port"), f"{field}.port")
    return port or None, tuple(found)


def _add_simple(found: list[Predicate], match: Json, field: str) -> None:
    readers: dict[str, Callable[[Request], str]] = {
        "method": lambda request: request.method,
        "scheme": lambda request: request.scheme,
        "authority": lambda request: request.authority,
    }
    for name, read in readers.items():
        test = string_match(match.get(name), f"{field}.{name}")
        if test is not None:
            found.append(Predicate(name, _reading(read, test)))


def _reading(read: Callable[[Request], str], test: Test) -> Callable[[Request], bool]:
    return lambda request: test(read(request))


def header_value(request: Request, name: str) -> str | None:
    """A header as routes compare it, with HTTP/2's pseudo-headers."""
    match name:
        case ":method":
            return request.method
        case ":authority" | "host":
            return request.authority
        case ":path":
            return request.target
        case ":scheme":
            return request.scheme
        case _:
            return request.headers.get(name)


def _claim(key: str, raw: Any, field: str) -> Callable[[Request], bool] | None:
    """The test of a claim of the verified token; None where ``key`` is a real header."""
    path = claims.routing_path(key, f"{field}[{key}]")
    if path is None:
        if key.startswith("@"):
            raise UnusableError(f"{field}[{key}]", "is no header")
        return None
    test = string_match(raw, f"{field}[{key}]") or _anything
    holds = claims.matcher(path, test)
    return lambda request: holds(request.claims)


def _anything(_: str) -> bool:
    return True


def _header(key: str, raw: Any, field: str) -> Predicate:
    claim = _claim(key, raw, field)
    if claim is not None:
        return Predicate(f"headers[{key}]", claim)
    name = key.lower()
    test = string_match(raw, f"{field}[{key}]")

    def passes(request: Request) -> bool:
        value = header_value(request, name)
        return value is not None and (test is None or test(value))

    return Predicate(f"headers[{name}]", passes)


def _without_header(key: str, raw: Any, field: str) -> Predicate:
    claim = _claim(key, raw, field)
    if claim is not None:
        return Predicate(f"withoutHeaders[{key}]", lambda request: not claim(request))
    name = key.lower()
    test = string_match(raw, f"{field}[{key}]")

    def passes(request: Request) -> bool:
        value = header_value(request, name)
        return value is None if test is None else not test(value or "")

    return Predicate(f"withoutHeaders[{name}]", passes)


def _query(key: str, raw: Any, field: str) -> Predicate:
    test = string_match(raw, f"{field}[{key}]")

    def passes(request: Request) -> bool:
        value = request.query_value(key)
        return value is not None and (test is None or test(value))

    return Predicate(f"queryParams[{key}]", passes)
