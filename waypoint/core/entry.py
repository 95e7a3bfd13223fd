"""From the head of a request to the request that routes and policy judge."""

from __future__ import annotations

from ambient.api.address import HostPort
from waypoint.core.local_reply import BAD_PATH, MISSING_HOST, NO_ROUTE, UPGRADE_REQUIRED
from waypoint.core.message import Peer, Reply, Request, RequestHead
from waypoint.core.path import normalise_target

STRIPPED = ("x-forwarded-client-cert", "x-envoy-peer-metadata", "x-envoy-peer-metadata-id")
"""A client must not say these for itself, and an application must not see them."""


def enter(head: RequestHead, peer: Peer, local: HostPort, request_id: str) -> Request | Reply:
    """The request, normalised; or the answer where it cannot be one.

    ``request_id`` is used where the client sent none.
    """
    if head.version == "1.0":
        return UPGRADE_REQUIRED
    if head.method == "CONNECT":
        return NO_ROUTE
    if not head.authority:
        return MISSING_HOST
    target = normalise_target(head.target)
    if target is None:
        return BAD_PATH
    headers = head.headers.copy()
    headers.remove(*STRIPPED)
    if "x-request-id" not in headers:
        headers.add("x-request-id", request_id)
    if "x-forwarded-proto" not in headers:
        headers.add("x-forwarded-proto", "http")
    return Request(
        method=head.method,
        target=target,
        authority=head.authority,
        headers=headers,
        peer=peer,
        local=local,
        content_length=head.content_length,
        has_body=head.has_body,
        upgrade=head.upgrade,
    )
