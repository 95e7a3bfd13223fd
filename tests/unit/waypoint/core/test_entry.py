"""From a head to a request: what is refused, stripped and added."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity
from tests.unit.waypoint.sample import AT, CURL
from waypoint.core.entry import Caller, enter
from waypoint.core.head_facts import facts_of
from waypoint.core.message import Headers, Peer, Reply, Request, RequestHead

PEER = Peer(CURL, ip_address("10.0.9.9"))
WAYPOINT = Identity("cluster.local", "shop", "waypoint")


def entered(fields=(), told_by=None, **changes) -> Request | Reply:
    given = {
        "method": "GET",
        "target": "/a?b",
        "version": "1.1",
        "authority": "reviews",
        "headers": Headers(fields),
        "content_length": None,
        "has_body": False,
        "facts": facts_of(list(fields)),
    }
    return enter(RequestHead(**(given | changes)), Caller(PEER, AT, told_by), "id-1")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"version": "1.0"}, 426),
        ({"method": "CONNECT"}, 404),
        ({"authority": None}, 400),
        ({"authority": ""}, 400),
        ({"target": "/%zz"}, 400),
        ({"target": "*"}, 400),
        ({"method": "OPTIONS", "target": "*"}, 404),
    ],
)
def test_what_is_no_request_for_a_service(changes, status):
    assert entered(**changes).status == status


def test_what_every_request_carries():
    request = entered()
    assert dict(request.headers) == {
        "x-request-id": "id-1",
        "x-forwarded-proto": "http",
        "x-forwarded-for": "10.0.9.9",
    }
    assert request.local == HostPort("10.96.0.10", 9080)
    said = [
        ("x-request-id", "mine"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "1.1.1.1"),
    ]
    assert entered(said).headers.items == said


def test_clients_do_not_speak_for_certificates():
    forged = [("x-forwarded-client-cert", "URI=spiffe://x"), ("x-envoy-peer-metadata", "y")]
    assert "x-forwarded-client-cert" not in entered(forged).headers
    assert "x-envoy-peer-metadata" not in entered(forged).headers
    told = entered(forged, told_by=WAYPOINT).headers
    assert told.get("x-forwarded-client-cert") == (
        "By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/curl"
    )


def test_framing_and_version_go_along():
    request = entered(version="2", content_length=3, has_body=True, upgrade="chat")
    assert (request.content_length, request.has_body, request.upgrade) == (3, True, "chat")
