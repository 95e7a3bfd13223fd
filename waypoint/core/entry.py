"""From the head of a request to the request that routes and policy judge."""

from __future__ import annotations

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity
from waypoint.core.local_reply import BAD_PATH, MISSING_HOST, NO_ROUTE, UPGRADE_REQUIRED
from waypoint.core.message import Headers, Peer, Reply, Request, RequestHead
from waypoint.core.path import Normalization, normalise_target


class Caller:
    """Who calls, and which address: the same for all requests of a connection.

    ``told_by`` is our own identity where the application is to learn the client's (annotation
    ``ambient.istio.io/xfcc-include-client-identity``).
    """

    __slots__ = ("certificate", "ip", "local", "peer")

    def __init__(self, peer: Peer, local: HostPort, told_by: Identity | None = None) -> None:
        self.peer = peer
        self.local = local
        self.ip = str(peer.ip)
        known = told_by is not None and peer.identity is not None
        self.certificate = f"By={told_by};URI={peer.identity}" if known else ""
        """The x-forwarded-client-cert."""


def enter(
    head: RequestHead,
    caller: Caller,
    request_id: str,
    how: Normalization = Normalization.BASE,
) -> Request | Reply:
    """The request, normalised; or the answer where it cannot be one.

    ``how`` paths are normalised; ``request_id`` is used where the client sent none. The
    application learns the client's address from x-forwarded-for, unless a gateway has said already
    where the request comes from.
    """
    if head.version == "1.0":
        return UPGRADE_REQUIRED
    if head.method == "CONNECT" or (head.method == "OPTIONS" and head.target == "*"):
        return NO_ROUTE
    if not head.authority:
        return MISSING_HOST
    target = normalise_target(head.target, how)
    if target is None:
        return BAD_PATH
    facts = head.facts
    headers = Headers(facts.passed)
    add = headers.items.append
    if facts.request_id is None:
        add(("x-request-id", request_id))
    if not facts.proto_known:
        add(("x-forwarded-proto", "http"))
    if facts.forwarded_for is None:
        add(("x-forwarded-for", caller.ip))
    if caller.certificate:
        add(("x-forwarded-client-cert", caller.certificate))
    scheme = head.scheme
    if head.version == "1.1" and headers.first("x-forwarded-proto") == "https":
        scheme = "https"  # what the client spoke with the first proxy
    return Request(
        method=head.method,
        target=target,
        authority=head.authority,
        headers=headers,
        peer=caller.peer,
        local=caller.local,
        content_length=head.content_length,
        has_body=head.has_body,
        upgrade=head.upgrade,
        scheme=scheme,
    )
