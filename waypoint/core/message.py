"""HTTP messages as the waypoint sees them, whatever version carried them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ambient.api.address import HostPort, IPAddress, parse_ip
from ambient.api.spiffe import Identity


class Headers:
    """Header fields in order, names in lower case, duplicates kept as separate lines."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self.items: list[tuple[str, str]] = list(items)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items)

    def __contains__(self, name: str) -> bool:
        for field, _ in self.items:  # noqa: SIM110 - a generator costs twice as much
            if field == name:
                return True
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({self.items!r})"

    def get(self, name: str) -> str | None:
        """All values of a field joined by commas (RFC 9110, section 5.3); None where absent."""
        found: str | None = None
        for field, value in self.items:
            if field == name:
                found = value if found is None else f"{found},{value}"
        return found

    def first(self, name: str) -> str | None:
        """The first value of a field; None where absent."""
        for field, value in self.items:
            if field == name:
                return value
        return None

    def set(self, name: str, value: str) -> None:
        """Exactly one line with this value, in the place of the first old one."""
        for index, (field, _) in enumerate(self.items):
            if field == name:
                rest = [item for item in self.items[index + 1 :] if item[0] != name]
                self.items[index:] = [(name, value), *rest]
                return
        self.items.append((name, value))

    def add(self, name: str, value: str) -> None:
        """One more line."""
        self.items.append((name, value))

    def remove(self, *names: str) -> None:
        """No line of these fields stays."""
        items = self.items
        for item in items:
            if item[0] in names:
                self.items = [item for item in items if item[0] not in names]
                return

    def copy(self) -> Headers:
        """An independent copy."""
        return Headers(self.items)


class Peer(NamedTuple):
    """The client: whose certificate opened the tunnel, and the address that it came from.

    ``identity`` is None only for hypothetical requests of unauthenticated clients.
    """

    identity: Identity | None
    ip: IPAddress
    port: int = 0


class End(NamedTuple):
    """A message is complete."""

    trailers: tuple[tuple[str, str], ...] = ()


class HeadFacts(NamedTuple):
    """What stages ask of the fields of a head; see ``head_facts``.

    ``passed`` are the fields that a client may say for itself. ``user_agent`` is empty and the
    next two are None where there is no such field.
    """

    passed: tuple[tuple[str, str], ...]
    user_agent: str
    forwarded_for: str | None
    request_id: str | None
    proto_known: bool
    grpc: bool


class RequestHead(NamedTuple):
    """A request's head off the wire, of whatever HTTP version (``"1.0"``, ``"1.1"``, ``"2"``).

    ``headers`` hold neither Host, nor framing, nor hop-by-hop fields. ``content_length`` None with
    ``has_body`` is a body of unknown length. ``keep_alive`` says what an HTTP/1 client wants.
    """

    method: str
    target: str
    version: str
    authority: str | None
    headers: Headers
    content_length: int | None
    has_body: bool
    facts: HeadFacts
    keep_alive: bool = True
    upgrade: str = ""
    expect_continue: bool = False
    scheme: str = "http"


class Request(msgspec.Struct):
    """A request on its way through routes, policy and filters; filters may edit it.

    ``target`` is the normalised path with its query; ``authority`` is Host; ``headers`` hold
    neither Host nor anything that frames the body. ``local`` is the address that the client
    called: a service address and service port, or a pod's. ``content_length`` None with
    ``has_body`` is a body of unknown length; ``upgrade`` names the protocol that the client asks
    to change to.
    """

    method: str
    target: str
    authority: str
    headers: Headers
    peer: Peer
    local: HostPort
    scheme: str = "http"
    content_length: int | None = None
    has_body: bool = False
    upgrade: str = ""
    sni: str = ""
    claims: Mapping[str, Any] | None = None
    """Of the token that was verified."""
    metadata: dict[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    """What others have noted, by the name of an Envoy filter."""
    at_s: float = 0.0
    """When it came, in seconds of Unix time."""

    @property
    def path(self) -> str:
        """The path without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark, undecoded."""
        return self.target.partition("?")[2]

    @property
    def remote_ip(self) -> IPAddress:
        """The rightmost address of x-forwarded-for, else the peer's (Istio trusts its callers)."""
        forwarded = self.headers.get("x-forwarded-for")
        if forwarded is None:
            return self.peer.ip
        return parse_ip(forwarded.rpartition(",")[2].strip()) or self.peer.ip

    def query_value(self, name: str) -> str | None:
        """The first value of a query parameter, undecoded; None where absent."""
        for pair in self.query.split("&"):
            key, _, value = pair.partition("=")
            if key == name and pair:
                return value
        return None


class Response(msgspec.Struct):
    """A response's head on its way back to the client.

    ``content_length`` is what the endpoint announced; ``end`` says that no body follows.
    """

    status: int
    headers: Headers
    reason: str = ""
    content_length: int | None = None
    end: bool = False

    @property
    def informational(self) -> bool:
        """A 1xx in front of the final response?"""
        return 100 <= self.status < 200 and self.status != 101


class Reply(NamedTuple):
    """A response that the waypoint gives itself; ``flag`` and ``details`` are for the log.

    ``grpc_status`` is what gRPC clients are told, where it does not follow from ``status``.
    """

    status: int
    body: str = ""
    flag: str = "-"
    details: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    grpc_status: int | None = None
