"""``why --probe``: what the tunnel is asked for, and what its answer says of the prediction."""

from __future__ import annotations

import json

import pytest

from ambient.telemetry.io.http import Response
from ambientctl.why.parties import read_source, read_target
from ambientctl.why.probe import call_of, compared, told
from ambientctl.why.snapshot import index_mesh
from ambientctl.why.walk import Http, Walk, walk
from tests.unit.ambientctl.meshes import build
from tests.unit.ambientctl.why.cluster import SHOP, by_kind
from ztunnel.core.call import Call, Called, HttpRequest, Outcome

APPLICATION = Called(outcome=Outcome.ANSWERED, captured=True, status=403, seconds=0.002)
THROUGH_WAYPOINT = Called(
    outcome=Outcome.ANSWERED, captured=True, status=503,
    headers={"server": "istio-envoy", "x-envoy-upstream-service-time": "2"},
)  # fmt: skip
BY_WAYPOINT = Called(
    outcome=Outcome.ANSWERED, captured=True, status=403, body="RBAC: access denied",
    headers={"server": "istio-envoy"},
)  # fmt: skip
RESET = Called(outcome=Outcome.FAILED, captured=True, error="refused with status 401: denied")
SILENT = Called(outcome=Outcome.SILENT, captured=True, error="no answer within 12 s")
OPEN = Called(outcome=Outcome.OPEN, captured=True)
CLOSED = Called(outcome=Outcome.CLOSED, captured=True)
PAST = Called(outcome=Outcome.ANSWERED, captured=False, status=200)


@pytest.mark.parametrize(
    ("called", "allowed", "agrees"),
    [
        (APPLICATION, True, True),  # its own 403 is the application's business
        (APPLICATION, False, False),
        (THROUGH_WAYPOINT, True, True),
        (BY_WAYPOINT, True, False),
        (BY_WAYPOINT, False, True),
        (RESET, True, False),
        (RESET, False, True),
        (SILENT, True, False),
        (OPEN, True, True),
        (OPEN, False, False),
        (CLOSED, True, None),  # an application may close at once
        (CLOSED, False, True),
        (PAST, True, False),  # however it went: it did not go through the mesh
    ],
)
def test_an_answer_beside_what_was_worked_out(called, allowed, agrees):
    predicted = Walk(source="a", destination="b", hops=[], allowed=allowed)
    found = compared("GET /", called, predicted, http=False)
    assert found.agrees is agrees
    assert bool(found.difference) is (agrees is False)


def test_an_http_client_that_gets_no_answer_was_not_served():
    predicted = Walk(source="a", destination="b", hops=[])
    assert compared("GET /", CLOSED, predicted, http=True).agrees is False


@pytest.mark.parametrize(
    ("called", "said"),
    [
        (APPLICATION, "the application answered 403 after 2 ms"),
        (BY_WAYPOINT, "a proxy answered 403 after 0 ms: RBAC: access denied"),
        (RESET, "no answer after 0 ms: refused with status 401: denied"),
        (OPEN, "connected, and it stays open"),
        (CLOSED, "closed after 0 ms without an answer"),
        (Called(outcome=Outcome.ANSWERED, captured=True), "the application spoke after 0 ms"),
    ],
)
def test_an_answer_in_one_line(called, said):
    assert told(called) == said


@pytest.mark.parametrize(
    ("destination", "http", "asked"),
    [
        ("details", Http(), HttpRequest(headers=[("host", "details.shop.svc.cluster.local")])),
        ("details", Http("PUT", "/x", (("host", "y"),)),
         HttpRequest(method="PUT", path="/x", headers=[("host", "y")])),
        ("shop/details:9080", Http(), HttpRequest(headers=[("host", "10.244.2.2")])),
        ("10.244.2.2:5432", Http(), None),
    ],
)  # fmt: skip
def test_a_request_where_the_port_speaks_http_or_the_caller_gives_one(destination, http, asked):
    mesh = index_mesh(by_kind(SHOP))
    source = read_source(mesh, "shop/client", "shop")
    target = read_target(mesh, destination, "shop")
    wish = call_of(target, http, walk(mesh, source, target, http), mesh)
    assert wish == Call(to=str(target.address), http=asked)


@pytest.fixture
def shop(ambientctl):
    build(ambientctl, policies="")
    return ambientctl


def tunnel(shop, answer):
    """The admin port of the source's node; what it was asked."""
    asked = []

    def page(request):
        asked.append((request.method, request.query, json.loads(request.body)))
        return Response(200, json.dumps(answer))

    shop.program("istio-system/ztunnel-2", 15000, {"/call": page})
    return asked


def test_the_tunnel_of_the_source_connects_and_the_answer_is_compared(shop):
    asked = tunnel(shop, {"outcome": "answered", "captured": True, "status": 200, "seconds": 0.01})
    words = ("why", "shop/details-1", "10.244.1.10:9080", "--probe", "--path", "/x")
    out = shop.ok(*words)
    assert "probe: GET /x from shop/details-1 to 10.244.1.10:9080: the application answered" in out
    assert out.endswith("as worked out\n")
    method, query, body = asked[0]
    uid = shop.objects(("", "pods"))["shop", "details-1"]["metadata"]["uid"]
    assert (method, query) == ("POST", {"pod": uid})
    assert body["http"] == {"method": "GET", "path": "/x", "headers": [["host", "10.244.1.10"]]}
    assert shop.json(*words)["probe"]["agrees"] is True


def test_a_difference_is_told_and_fails_the_command(shop):
    tunnel(shop, {"outcome": "failed", "captured": True, "error": "reset"})
    done = shop("why", "shop/details-1", "10.244.1.10:9080", "--probe")
    assert done.status == 1
    assert "DIFFERS: it was expected to pass" in done.out


def test_where_nobody_can_connect_from_the_answer_stands_and_the_reason_is_named(shop):
    words = ("10.244.1.10:9080", "--probe")
    for source, said in (
        ("outside/client-1", "is not in the mesh: no tunnel can connect from inside it"),
        ("spiffe://cluster.local/ns/x/sa/y", "is no pod of this cluster"),
        ("shop/details-1", "the tunnel ztunnel-2 makes no connection for shop/details-1"),
    ):
        done = shop("why", source, *words)
        assert done.status == 1
        assert "allowed" in done.out
        assert said in done.err
        assert "hint: " in done.err
    done = shop("why", "shop/details-1", *words, "--dry-run", "-f", "x")
    assert (done.status, "give one" in done.err) == (2, True)
