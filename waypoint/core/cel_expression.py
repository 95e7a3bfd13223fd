"""CEL over a record, with Envoy's attributes: filters of access logs and values of metric tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from waypoint.core.cel_program import compile_cel, printed
from waypoint.core.log_format import grpc_number
from waypoint.core.record import Record

UNKNOWN: Final = "unknown"
ROOTS: Final = frozenset(
    ("request", "response", "source", "destination", "connection", "upstream", "xds", "metadata",
     "filter_state", "upstream_peer", "downstream_peer", "node")
)  # fmt: skip


def compile_expression(text: str, field: str) -> Callable[[Record], Any]:
    """The value of an expression for a record. Raises UnusableError; the value, ValueError."""
    program = compile_cel(text, field)
    return lambda record: program(attributes(record))


def filter_of(text: str, field: str) -> Callable[[Record], bool]:
    """Is the expression true? One that cannot be computed is not."""
    evaluate = compile_expression(text, field)

    def passes(record: Record) -> bool:
        try:
            return evaluate(record) is True
        except ValueError:
            return False

    return passes


def text_of(text: str, field: str) -> Callable[[Record], str]:
    """The value as a label; ``unknown`` where it cannot be computed."""
    evaluate = compile_expression(text, field)

    def value(record: Record) -> str:
        try:
            found = evaluate(record)
        except ValueError:
            return UNKNOWN
        return printed(found) or UNKNOWN

    return value


def attributes(record: Record) -> dict[str, Any]:
    """Envoy's attributes; those without a value are absent."""
    headers = dict(record.request_headers or ())
    decided = record.decided
    upstream = decided.upstream if decided is not None else None
    route = decided.route if decided is not None else None
    service = record.service
    target = record.target
    return {
        "request": _known(
            path=record.path,
            url_path=record.path.partition("?")[0],
            query=record.path.partition("?")[2],
            host=record.authority,
            scheme="http",
            method=record.method,
            headers=headers,
            referer=headers.get("referer", ""),
            useragent=record.user_agent,
            id=record.request_id,
            protocol=record.protocol,
            size=record.received,
        ),
        "response": _known(
            code=record.status,
            code_details=record.details,
            size=record.sent,
            headers=dict(record.response_headers or ()),
            grpc_status=grpc_number(record),
        ),
        "source": _known(address=record.remote_address, port=record.peer.port),
        "destination": _known(address=str(record.to.address), port=record.to.address.port),
        "connection": _known(
            mtls=record.peer.identity is not None,
            requested_server_name=record.sni,
            uri_san_peer_certificate=str(record.peer.identity or ""),
        ),
        "upstream": _known(
            address=str(target.address) if target is not None else "",
            port=target.address.port if target is not None else None,
            transport_failure_reason=record.cause,
        ),
        "xds": _known(
            cluster_name=upstream.cluster if upstream is not None else "",
            route_name=route.name if route is not None else "",
            cluster_metadata={"service": service.hostname} if service is not None else {},
        ),
        "metadata": {"filter_metadata": {k: dict(v) for k, v in record.metadata.items()}},
    }


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "")}
