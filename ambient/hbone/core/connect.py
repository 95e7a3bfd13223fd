"""The CONNECT request and its answer, to and from HTTP/2 header lists (RFC 9113, section 8.5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

Headers = tuple[tuple[str, str], ...]

FORBIDDEN_HEADERS: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
"""HTTP/1.1's connection headers make a message malformed (RFC 9113, section 8.2.2)."""


class ConnectRequest(NamedTuple):
    """``authority`` is ``ip:port``, ``[v6]:port`` or ``name:port``; names are lower case."""

    authority: str
    headers: Headers = ()

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


class ConnectResponse(NamedTuple):
    """The answer; the tunnel is open where ``status`` is 200."""

    status: int
    headers: Headers = ()

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


class MalformedHeadError(ValueError):
    """A header list that HTTP/2 forbids: the stream is reset with PROTOCOL_ERROR."""


def request_fields(request: ConnectRequest) -> Headers:
    """The header list of a request, pseudo-headers first."""
    return (":method", "CONNECT"), (":authority", request.authority), *request.headers


def response_fields(response: ConnectResponse) -> Headers:
    """The header list of an answer, pseudo-header first."""
    return (":status", str(response.status)), *response.headers


def parse_request(fields: Iterable[tuple[bytes, bytes]]) -> ConnectRequest | None:
    """Read a request; None where it is well-formed but no plain CONNECT (answer: status 400).

    Raises MalformedHeadError.
    """
    pseudo, headers = _split(fields, frozenset({":method", ":authority", ":scheme", ":path"}))
    if ":method" not in pseudo:
        raise MalformedHeadError("no :method")
    plain_connect = pseudo[":method"] == "CONNECT"
    if not plain_connect or not pseudo.get(":authority") or len(pseudo) != 2:
        return None
    return ConnectRequest(pseudo[":authority"], headers)


def parse_response(fields: Iterable[tuple[bytes, bytes]]) -> ConnectResponse:
    """Read an answer. Raises MalformedHeadError."""
    pseudo, headers = _split(fields, frozenset({":status"}))
    status = pseudo.get(":status", "")
    if len(status) != 3 or not (status.isascii() and status.isdigit()) or status < "100":
        raise MalformedHeadError(f"bad :status {status!r}")
    return ConnectResponse(int(status), headers)


def check_trailers(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Trailers only have to be well-formed; their content is nothing to us.

    Raises MalformedHeadError.
    """
    _split(fields, frozenset())


def _split(
    fields: Iterable[tuple[bytes, bytes]], known_pseudo: frozenset[str]
) -> tuple[dict[str, str], Headers]:
    pseudo: dict[str, str] = {}
    headers: list[tuple[str, str]] = []
    for raw_name, raw_value in fields:
        # latin-1 keeps every octet as it is, so a header is passed on as it came
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name.startswith(":"):
            if headers or name in pseudo or name not in known_pseudo:
                raise MalformedHeadError(f"unexpected pseudo-header {name!r}")
            pseudo[name] = value
        elif not name or name in FORBIDDEN_HEADERS or name != name.lower():
            raise MalformedHeadError(f"forbidden header {name!r}")
        else:
            headers.append((name, value))
    if any(
        "\r" in v or "\n" in v or "\0" in v for v in (*pseudo.values(), *dict(headers).values())
    ):
        raise MalformedHeadError("a header value with a line break")
    return pseudo, tuple(headers)
