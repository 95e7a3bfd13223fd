"""``istio_requests_total`` and its family, label by label, in each situation that dashboards tell
apart."""

from __future__ import annotations

import re

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest

from ambient.api.workload import TunnelProtocol
from tests.unit.waypoint.core.test_authenticate import authentication, rule
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_safeguards import register
from tests.unit.waypoint.sample import config, policy, service, virtual_service, workload

POD = "127.0.1.1"
DESTINATION = ("workload", "workload_namespace", "principal", "app", "version", "cluster",
               "canonical_service", "canonical_revision")  # fmt: skip
FROM = {
    "reporter": "waypoint",
    "source_workload": "curl",
    "source_workload_namespace": "shop",
    "source_principal": "spiffe://cluster.local/ns/shop/sa/curl",
    "source_app": "curl",
    "source_version": "v9",
    "source_cluster": "Kubernetes",
    "source_canonical_service": "curl",
    "source_canonical_revision": "v9",
}
STRANGER = FROM | dict.fromkeys([name for name in FROM if name.startswith("source_")], "unknown")
STRANGER |= {name: FROM[name] for name in ("source_workload_namespace", "source_principal")}
SERVICE = {
    "destination_service": "reviews.shop.svc.cluster.local",
    "destination_service_name": "reviews",
    "destination_service_namespace": "shop",
}
NOWHERE = {f"destination_{name}": "unknown" for name in DESTINATION}
REACHED = {
    "destination_workload": "reviews-v1",
    "destination_workload_namespace": "shop",
    "destination_principal": "spiffe://cluster.local/ns/shop/sa/reviews",
    "destination_app": "reviews",
    "destination_version": "v1",
    "destination_cluster": "Kubernetes",
    "destination_canonical_service": "reviews",
    "destination_canonical_revision": "v1",
}


def response(code, flags="-", protocol="http", grpc="", policy="mutual_tls"):
    return {
        "request_protocol": protocol,
        "response_code": str(code),
        "grpc_response_status": grpc,
        "response_flags": flags,
        "connection_security_policy": policy,
    }


def scraped(made, name):
    """Labels and value of the one series of a sample; None where there is none."""
    registry = CollectorRegistry()
    registry.register(made.service.reports.metrics)
    lines = generate_latest(registry).decode().splitlines()
    found = [line for line in lines if line.startswith(f"{name}{{")]
    assert len(found) <= 1, found
    if not found:
        return None
    labels, _, value = found[0].rpartition(" ")
    return dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


async def family(made, count=1.0):
    """The labels of the request metrics, which are the same for all of them."""
    while (total := scraped(made, "istio_requests_total")) is None:
        await trio.sleep(0.01)
    labels, value = total
    assert value == count
    for name in ("request_duration_milliseconds", "request_bytes", "response_bytes"):
        assert scraped(made, f"istio_{name}_count") == (labels, count), name
    return labels


def answering(wire):
    async def app(stream):
        data = b""
        while more := await stream.receive_some():
            data += more
            if b"\r\n\r\n" in data:
                await stream.send_all(wire)
                data = b""

    return app


OK = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")


async def closing(stream):
    await stream.receive_some()


def known(made, **curl):
    """A caller with a workload, and one endpoint."""
    caller = {"of": "curl", "services": {}, "cluster_id": "Kubernetes", **curl}
    register(
        made,
        workload("curl", "127.0.0.1", "v9", **caller),
        workload("reviews-v1", POD, "v1", cluster_id="Kubernetes"),
        workload("reviews-v2", "127.0.1.2", "v2", services={}),
    )


REFUSED_TOKEN = {"authorization": "Bearer x"}
TO_REVIEWS = [{"destination": {"host": "reviews"}}]
ABORT = {"abort": {"httpStatus": 418, "percentage": {"value": 100}}}


@pytest.mark.parametrize(
    ("objects", "app", "headers", "labels"),
    [
        ([], OK, {}, SERVICE | REACHED | response(200)),
        ([policy([])], OK, {}, SERVICE | NOWHERE | response(403)),
        ([authentication(rule())], OK, REFUSED_TOKEN, SERVICE | NOWHERE | response(401)),
        ([virtual_service({"match": [{"uri": {"exact": "/x"}}], "route": TO_REVIEWS})], OK, {},
         SERVICE | NOWHERE | response(404, "NR")),
        ([virtual_service({"directResponse": {"status": 204}})], OK, {},
         SERVICE | NOWHERE | response(204)),
        ([virtual_service({"fault": ABORT, "route": TO_REVIEWS})], OK, {},
         SERVICE | NOWHERE | response(418, "FI")),
        ([virtual_service({"route": [{"destination": {"host": "none"}}]})], OK, {},
         SERVICE | NOWHERE | response(503, "NC")),
        ([], closing, {}, SERVICE | REACHED | response(503, "UC")),
        ([virtual_service({"route": TO_REVIEWS, "retries": {"attempts": 1, "retryOn": "5xx"}})],
         closing, {}, SERVICE | REACHED | response(503, "URX,UC")),
        ([], answering(b"HTTP/1.1 200 OK\r\ngrpc-status: 5\r\ncontent-length: 0\r\n\r\n"),
         {"content-type": "application/grpc"},
         SERVICE | REACHED | response(200, protocol="grpc", grpc="5")),
        ([policy([])], OK, {"content-type": "application/grpc"},
         SERVICE | NOWHERE | response(200, protocol="grpc", grpc="7")),
    ],
    ids=["plain", "denied", "bad token", "no route", "direct response", "fault", "no cluster",
         "upstream failure", "retried in vain", "gRPC", "gRPC denied"],
)  # fmt: skip
async def test_every_label_of_a_request(objects, app, headers, labels):
    async with rig(apps=False) as made:
        known(made)
        made.configure(*objects)
        await made.app(POD, app)
        await (await made.caller()).get("/", "POST", **headers)
        assert await family(made) == FROM | labels
        for name in ("request", "response"):
            assert scraped(made, f"istio_{name}_messages_total") is None


async def test_an_endpoint_that_cannot_be_reached():
    async with rig(apps=False) as made:
        known(made)
        made.configure(virtual_service({"route": TO_REVIEWS, "retries": {"attempts": 0}}))
        await (await made.caller()).get()
        assert await family(made) == FROM | SERVICE | REACHED | response(503, "UF")


async def test_a_client_that_leaves_has_no_code():
    async with rig(apps=False) as made:
        known(made)
        asked = trio.Event()

        async def silent(stream):
            await stream.receive_some()
            asked.set()
            await stream.receive_some()

        await made.app(POD, silent)
        caller = await made.caller()
        await caller.send()
        await asked.wait()
        caller.stream.reset()
        assert await family(made) == FROM | SERVICE | REACHED | response(0, "DC")


async def test_a_caller_that_the_mesh_does_not_know_has_its_principal():
    async with rig(apps=False) as made:
        known(made, addresses=())
        await made.app(POD, OK)
        await (await made.caller()).get()
        assert await family(made) == STRANGER | SERVICE | REACHED | response(200)


async def test_a_service_outside_the_mesh_is_named_by_its_host():
    async with rig(apps=False) as made:
        known(made)
        host = "api.example.com"
        entry = service("api", "10.96.0.44", hostname=host)
        outside = workload(
            "api-1", POD, "v1", of="api", tunnel_protocol=TunnelProtocol.NONE, service_account="",
            services={entry.key: entry.ports}, canonical_name="", canonical_revision="",
            cluster_id="Kubernetes",
        )  # fmt: skip
        register(made, entry, outside)
        await made.app(POD, OK)
        await (await made.caller("10.96.0.44:9080")).get()
        named = {"destination_service": host, "destination_service_name": host}
        place = {"workload": "api-1", "workload_namespace": "shop", "cluster": "Kubernetes"}
        reached = NOWHERE | {f"destination_{name}": value for name, value in place.items()}
        expected = FROM | SERVICE | named | reached | response(200, policy="none")
        assert await family(made) == expected


FRAME = b"\0\0\0\0\2ab"


async def test_messages_of_grpc_have_the_parties_only():
    head = b"HTTP/1.1 200 OK\r\ngrpc-status: 0\r\ncontent-length: %d\r\n\r\n" % (3 * len(FRAME))
    async with rig(apps=False) as made:
        known(made)
        await made.app(POD, answering(head + 3 * FRAME))
        asked = {"method": "POST", "body": 2 * FRAME, "content_type": "application/grpc"}
        await (await made.caller()).get(**asked)
        grpc = response(200, protocol="grpc", grpc="0")
        assert await family(made) == FROM | SERVICE | REACHED | grpc
        parties = FROM | SERVICE | REACHED
        assert scraped(made, "istio_request_messages_total") == (parties, 2.0)
        assert scraped(made, "istio_response_messages_total") == (parties, 3.0)


METRICS = {
    "REQUEST_COUNT": "istio_requests_total",
    "REQUEST_DURATION": "istio_request_duration_milliseconds_count",
    "REQUEST_SIZE": "istio_request_bytes_count",
    "RESPONSE_SIZE": "istio_response_bytes_count",
    "GRPC_REQUEST_MESSAGES": "istio_request_messages_total",
    "GRPC_RESPONSE_MESSAGES": "istio_response_messages_total",
}


@pytest.mark.parametrize("metric", list(METRICS))
async def test_tags_of_one_metric_are_changed(metric):
    tags = {
        "source_principal": {"operation": "REMOVE"},
        "destination_app": {"value": "request.host"},
        "team": {"value": "request.headers['x-team']"},
        "code_class": {"value": "response.code >= 500 ? 'bad' : 'good'"},
        "nobody": {"value": "request.headers['x-no']"},
    }
    overrides = [{"match": {"metric": metric, "mode": "SERVER"}, "tagOverrides": tags}]
    head = b"HTTP/1.1 200 OK\r\ngrpc-status: 0\r\ncontent-length: %d\r\n\r\n" % len(FRAME)
    async with rig(apps=False) as made:
        known(made)
        made.configure(config("Telemetry", "t", {"metrics": [{"overrides": overrides}]}))
        await made.app(POD, answering(head + FRAME))
        asked = {"method": "POST", "body": FRAME, "content_type": "application/grpc"}
        await (await made.caller()).get(x_team="blue", **asked)
        while scraped(made, "istio_requests_total") is None:
            await trio.sleep(0.01)
        for name, sample in METRICS.items():
            labels, value = scraped(made, sample)
            changed = {
                "destination_app": "reviews:9080",
                "team": "blue",
                "code_class": "good",
                "nobody": "unknown",
            }
            assert value == 1.0
            assert (changed.items() <= labels.items()) == (name == metric), name
            assert ("source_principal" not in labels) == (name == metric), name
