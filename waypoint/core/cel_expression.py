"""CEL over a record, with Envoy's attributes: filters of access logs and values of metric tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from waypoint.core.cel_program import compile_cel, printed
from waypoint.core.grpc import GrpcStatus, status_of_http
from waypoint.core.record import Record
from waypoint.core.response_flags import as_number

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


def value_of(text: str, field: str) -> Callable[[Record], str | None]:
    """The value as an access log has it; None where it cannot be computed. Raises
    UnusableError."""
    evaluate = compile_expression(text, field)

    def value(record: Record) -> str | None:
        try:
            found = evaluate(record)
        except ValueError:
            return None
        return None if found is None else printed(found)

    return value


def attributes(record: Record) -> dict[str, Any]:
    """Envoy's attributes; those without a value are absent."""
    headers = dict(record.request_headers or ())
    decided = record.decided
    upstream = decided.upstream if decided is not None else None
    route = decided.route if decided is not None else None
    service = record.service
    target = record.target
    path = record.new_path or record.path
    return {
        "request": _known(
            path=path,
            url_path=path.partition("?")[0],
            host=record.authority,
            scheme="http",
            method=record.method,
            headers=headers,
            referer=headers.get("referer", ""),
            useragent=record.user_agent,
            id=record.request_id,
            protocol=record.protocol,
            size=record.received,
        )
        | {"query": path.partition("?")[2]},
        "response": _known(
            code=record.status,
            code_details=record.details,
            size=record.sent,
            headers=dict(record.response_headers or ()),
            flags=as_number(record.flag),
            grpc_status=_grpc_status(record),
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


def _grpc_status(record: Record) -> int | None:
    """What the response says, else what its HTTP status would mean (Envoy: 200 is nothing)."""
    if record.grpc_number is not None or not record.status:
        return record.grpc_number
    return int(GrpcStatus.UNKNOWN if record.status == 200 else status_of_http(record.status))


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "")}
