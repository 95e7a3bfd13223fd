"""Envoy's ``envoy.service.auth.v3`` messages: a request as a check, an answer as a decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from ambient.api.address import HostPort
from waypoint.core.ext_authz import PARTIAL, Decision, Pairs, denial, failed
from waypoint.core.filters import HeaderEdits
from waypoint.core.message import Request
from waypoint.core.providers import ExtAuthz

METHOD: Final = "/envoy.service.auth.v3.Authorization/Check"
_STATUSES: Final = range(200, 600)


def check(
    request: Request,
    own_principal: str,
    now_s: float,
    protocol: str = "",
    told: tuple[str, ...] = (),
) -> external_auth_pb2.CheckRequest:
    """A request, or (without a method) a raw connection; ``told`` are its only headers, if any."""
    made = external_auth_pb2.CheckRequest()
    attributes = made.attributes
    peer = request.peer
    _peer(attributes.source, HostPort(str(peer.ip), peer.port), str(peer.identity or ""))
    _peer(attributes.destination, request.local, own_principal)
    attributes.request.time.FromNanoseconds(int(now_s * 1e9))
    if request.sni:
        attributes.tls_session.sni = request.sni
    if request.method:
        _http(attributes.request.http, request, protocol, told)
    return made


def set_body(
    made: external_auth_pb2.CheckRequest, body: bytes, *, partial: bool, as_bytes: bool
) -> None:
    """Put the request's body in."""
    http = made.attributes.request.http
    http.headers[PARTIAL] = "true" if partial else "false"
    if as_bytes:
        http.raw_body = body
    else:
        http.body = body.decode(errors="replace")


def _peer(peer: Any, at: HostPort, principal: str) -> None:
    socket = address_pb2.SocketAddress(address=at.host, port_value=at.port)
    peer.address.CopyFrom(address_pb2.Address(socket_address=socket))
    peer.principal = principal


def _http(
    http: attribute_context_pb2.AttributeContext.HttpRequest,
    request: Request,
    protocol: str,
    told: tuple[str, ...],
) -> None:
    http.id = request.headers.first("x-request-id") or ""
    http.method = request.method
    http.path = request.target
    http.host = request.authority
    http.scheme = request.scheme
    http.protocol = protocol
    http.size = -1 if request.content_length is None else request.content_length
    headers = http.headers
    headers[":method"], headers[":path"] = request.method, request.target
    headers[":authority"], headers[":scheme"] = request.authority, request.scheme
    for name, value in request.headers:
        if told and name not in told:
            continue
        headers[name] = f"{headers[name]},{value}" if name in headers else value


def decision(provider: ExtAuthz, raw: bytes) -> Decision:
    """What the answer means."""
    try:
        answer = external_auth_pb2.CheckResponse.FromString(raw)
    except DecodeError:
        return failed(provider)
    if answer.status.code == 0:
        return _allowed(answer)
    if answer.HasField("error_response"):
        return _failed(provider, answer.error_response)
    denied = answer.denied_response
    status = denied.status.code if denied.HasField("status") else 403
    if status not in _STATUSES:
        status = 403
    put, add = _options(denied.headers)
    return denial(status, (*put, *add), denied.body)


def _failed(provider: ExtAuthz, error: Any) -> Decision:
    """A provider that says itself that it could not decide: its words, and our ``statusOnError``
    where it names no status."""
    found = failed(provider)
    if found.refusal is None:
        return found
    status = error.status.code if error.status.code in _STATUSES else found.refusal.status
    put, add = _options(error.headers)
    said = denial(status, (*put, *add), error.body).refusal
    assert said is not None
    return Decision(refusal=said._replace(details=found.refusal.details))


def _allowed(answer: external_auth_pb2.CheckResponse) -> Decision:
    ok = answer.ok_response
    put, add = _options(ok.headers)
    noted = answer.dynamic_metadata if answer.HasField("dynamic_metadata") else ok.dynamic_metadata
    return Decision(
        put=put,
        add=add,
        remove=tuple(name.lower() for name in ok.headers_to_remove),
        response=_response_edits(ok.response_headers_to_add),
        put_query=tuple((one.key, one.value) for one in ok.query_parameters_to_set),
        remove_query=tuple(ok.query_parameters_to_remove),
        noted=json_format.MessageToDict(noted),
    )


def _response_edits(found: Iterable[base_pb2.HeaderValueOption]) -> tuple[HeaderEdits, ...]:
    """By ``append`` where it is given, else by ``append_action`` (whose default appends)."""
    kinds = defaultdict[str, Pairs](tuple)
    for one in found:
        action = one.append_action
        if one.HasField("append"):
            action = _ACTIONS.APPEND_IF_EXISTS_OR_ADD
            if not one.append.value:
                action = _ACTIONS.OVERWRITE_IF_EXISTS_OR_ADD
        kinds[_KINDS.get(action, "put")] += _pair(one)
    edits = HeaderEdits(
        put=kinds["put"], add=kinds["add"], absent=kinds["absent"], present=kinds["present"]
    )
    return (edits,) if edits else ()


_ACTIONS: Final = base_pb2.HeaderValueOption
_KINDS: Final = {
    _ACTIONS.APPEND_IF_EXISTS_OR_ADD: "add",
    _ACTIONS.ADD_IF_ABSENT: "absent",
    _ACTIONS.OVERWRITE_IF_EXISTS_OR_ADD: "put",
    _ACTIONS.OVERWRITE_IF_EXISTS: "present",
}


def _pair(one: base_pb2.HeaderValueOption) -> Pairs:
    """The field; none where it is one that no header can carry."""
    value = one.header.value or one.header.raw_value.decode("latin-1")
    name = one.header.key.lower()
    bad = not name or set(value) & set("\r\n\0") or set(name) & set(" \r\n\0")
    return () if bad else ((name, value),)


def _options(found: Iterable[base_pb2.HeaderValueOption]) -> tuple[Pairs, Pairs]:
    """Fields to overwrite and fields to append; what no header can carry is left out."""
    put: list[tuple[str, str]] = []
    add: list[tuple[str, str]] = []
    for one in found:
        (add if one.append.value else put).extend(_pair(one))
    return tuple(put), tuple(add)
