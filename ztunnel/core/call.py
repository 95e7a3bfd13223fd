"""A connection that ``POST /call`` is asked to make from inside a pod, and what came of it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ambient.api.address import HostPort, parse_ip


class Outcome(StrEnum):
    """How the connection ended."""

    FAILED = "failed"
    """There is no connection, or it was reset before anybody answered."""
    CLOSED = "closed"
    """It was closed in order, and nobody had answered."""
    OPEN = "open"
    """The tunnel reached the next hop, and nobody closes: the server waits for the client."""
    ANSWERED = "answered"
    """Bytes came back; in HTTP an answer."""
    SILENT = "silent"
    """A request was sent, and no answer came in time."""


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request without a body."""

    method: str = "GET"
    path: str = "/"
    headers: list[tuple[str, str]] = []


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do: a bare connection where ``http`` is None."""

    to: str
    http: HttpRequest | None = None

    def address(self) -> HostPort:
        """Raises ValueError."""
        host, _, port = self.to.rpartition(":")
        ip = parse_ip(host.strip("[]"))
        if ip is None or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"{self.to!r} is no address and port")
        return HostPort(str(ip), int(port))


class Called(msgspec.Struct, kw_only=True):
    """What came of it."""

    outcome: Outcome = Outcome.FAILED
    captured: bool = False
    """The connection came to this tunnel, as every connection of the pod should."""
    error: str = ""
    status: int = 0
    """Of an HTTP answer."""
    headers: dict[str, str] = {}
    body: str = ""
    """The first bytes."""
    seconds: float = 0.0
