"""What gRPC puts on top of HTTP: statuses, deadlines, and how a proxy answers (Envoy's rules)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final
from urllib.parse import quote

from waypoint.core.message import Headers, Reply, Response


class GrpcStatus(IntEnum):
    """Status codes, github.com/grpc/grpc/blob/master/doc/statuscodes.md."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_OF_HTTP: Final = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    429: GrpcStatus.UNAVAILABLE,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.UNAVAILABLE,
}
_TIMEOUT_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_CONTENT_TYPE: Final = "application/grpc"
_PLAIN: Final = "".join(chr(c) for c in range(0x20, 0x7F) if c != 0x25)
"""Characters that grpc-message does not escape (gRPC over HTTP/2, "Percent-Byte-Unencoded")."""


def is_grpc(headers: Headers) -> bool:
    """Does the content-type say gRPC (``application/grpc`` or ``application/grpc+…``)?"""
    for name, value in headers.items:
        if name == "content-type":
            return is_grpc_type(value)
    return False


def is_grpc_type(found: str | None) -> bool:
    """The same of the content-type itself."""
    if found is None or not found.startswith(_CONTENT_TYPE):
        return False
    rest = found[len(_CONTENT_TYPE) :]
    return not rest or rest[0] in "+; "


def status_of_http(status: int) -> GrpcStatus:
    """The gRPC status that stands for an HTTP status."""
    return GrpcStatus.OK if status == 200 else _OF_HTTP.get(status, GrpcStatus.UNKNOWN)


_HTTP_OF: Final = (
    200,
    499,
    500,
    400,
    504,
    404,
    409,
    403,
    429,
    400,
    409,
    400,
    501,
    500,
    503,
    500,
    401,
)
"""HTTP statuses by gRPC status (Envoy)."""


def http_status(response: Response) -> int:
    """The status that counts: of a gRPC response without a body, the one that its code means."""
    code = response.headers.first("grpc-status")
    if code is None or not (code.isascii() and code.isdigit() and len(code) < 3):
        return response.status
    return _HTTP_OF[int(code)] if int(code) < len(_HTTP_OF) else 500


def timeout_s(headers: Headers) -> float | None:
    """The client's deadline in ``grpc-timeout``, in seconds; None without a valid one."""
    said = headers.first("grpc-timeout")
    if said is None or not 2 <= len(said) <= 9:
        return None
    digits, unit = said[:-1], _TIMEOUT_UNITS_S.get(said[-1])
    if unit is None or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits) * unit


def timeout_text(milliseconds: int) -> str:
    """A ``grpc-timeout``, in the finest unit that its eight digits have room for."""
    value = milliseconds
    for unit, size in (("m", 1000), ("S", 60), ("M", 60)):
        if value < 10**8:
            return f"{value}{unit}"
        value //= size
    return f"{min(value, 10**8 - 1)}H"


def trailers_only(reply: Reply) -> Reply:
    """A local reply as gRPC clients read it: status 200, and everything in the header block.

    A reply that carries ``grpc-status`` already keeps it.
    """
    headers = Headers(reply.headers)
    headers.set("content-type", _CONTENT_TYPE)
    if "grpc-status" not in headers:
        given = reply.grpc_status
        code = status_of_http(reply.status) if given is None else given
        headers.add("grpc-status", str(int(code)))
    if reply.body and "grpc-message" not in headers:
        headers.add("grpc-message", quote(reply.body, safe=_PLAIN))
    return reply._replace(status=200, body="", headers=tuple(headers))
