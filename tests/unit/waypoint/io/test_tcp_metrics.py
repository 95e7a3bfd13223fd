"""``istio_tcp_*`` of what passes a waypoint as bytes: every label that dashboards read."""

from __future__ import annotations

import re

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest

from ambient.api.service import AppProtocol, Port
from ambient.api.type_urls import ADDRESS_TYPE
from tests.unit.waypoint.core.test_client_hello import hello
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_safeguards import register
from tests.unit.waypoint.sample import (
    REVIEWS,
    WAYPOINT,
    config,
    policy,
    service,
    workload,
)

BOTH = ("127.0.1.1", "127.0.1.2")
HOST = "reviews.shop.svc.cluster.local"
CLIENT = {
    "reporter": "waypoint",
    "source_workload": "curl",
    "source_workload_namespace": "shop",
    "source_principal": "spiffe://cluster.local/ns/shop/sa/curl",
    "source_app": "curl",
    "source_version": "v9",
    "source_cluster": "Kubernetes",
    "source_canonical_service": "curl",
    "source_canonical_revision": "v9",
    "destination_service": HOST,
    "destination_service_name": "reviews",
    "destination_service_namespace": "shop",
    "request_protocol": "tcp",
}
REACHED = CLIENT | {
    "destination_workload": "reviews-v1",
    "destination_workload_namespace": "shop",
    "destination_principal": "spiffe://cluster.local/ns/shop/sa/reviews",
    "destination_app": "reviews",
    "destination_version": "v1",
    "destination_cluster": "Kubernetes",
    "destination_canonical_service": "reviews",
    "destination_canonical_revision": "v1",
    "connection_security_policy": "mutual_tls",
    "response_flags": "-",
}


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


def scraped(made, name):
    """Labels and value of the one series of a metric."""
    registry = CollectorRegistry()
    registry.register(made.service.reports.metrics)
    lines = generate_latest(registry).decode().splitlines()
    found = [line for line in lines if line.startswith(f"{name}{{")]
    assert len(found) <= 1, found
    if not found:
        return {}, 0.0
    labels, _, value = found[0].rpartition(" ")
    return dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


async def until(condition):
    while not condition():
        await trio.sleep(0.01)


async def declared(made, protocol):
    port = Port(9080, 9080, protocol)
    more = {"services": {REVIEWS: (port,)}, "cluster_id": "Kubernetes"}
    curl = workload("curl", "127.0.0.1", "v9", of="curl", services={}, cluster_id="Kubernetes")
    register(made, service(ports=(port,), waypoint=WAYPOINT), curl)
    register(made, workload("reviews-v1", BOTH[0], "v1", **more))
    made.state.apply(ADDRESS_TYPE, {}, ["Kubernetes//Pod/shop/reviews-v2"])


@pytest.mark.parametrize(
    ("protocol", "first"),
    [(AppProtocol.TCP, b"hello"), (AppProtocol.TLS, hello("reviews.example.com"))],
    ids=["raw", "tls passthrough"],
)
async def test_every_label_of_a_connection(protocol, first):
    async with rig(apps=False) as made:
        await declared(made, protocol)
        await made.app(BOTH[0], echo)
        stream = await made.open()
        await stream.send_all(first)
        back = b""
        while len(back) < len(first):
            back += await stream.receive_some()
        opened = scraped(made, "istio_tcp_connections_opened_total")
        assert opened == (REACHED, 1.0)
        # Bytes are counted while the connection lasts, and it is not closed yet.
        await until(lambda: scraped(made, "istio_tcp_sent_bytes_total")[1] == len(first))
        assert scraped(made, "istio_tcp_received_bytes_total") == (REACHED, len(first))
        assert scraped(made, "istio_tcp_connections_closed_total")[1] == 0.0
        await stream.send_eof()
        while await stream.receive_some():
            pass
        await until(lambda: scraped(made, "istio_tcp_connections_closed_total")[1] == 1.0)
        for name in ("connections_closed", "sent_bytes", "received_bytes"):
            assert scraped(made, f"istio_tcp_{name}_total")[0] == REACHED
        assert scraped(made, "istio_requests_total") == ({}, 0.0)


UNREACHED = CLIENT | {
    "destination_workload": "unknown",
    "destination_workload_namespace": "unknown",
    "destination_principal": "unknown",
    "destination_app": "unknown",
    "destination_version": "unknown",
    "destination_cluster": "unknown",
    "destination_canonical_service": "unknown",
    "destination_canonical_revision": "unknown",
    "connection_security_policy": "mutual_tls",
}


async def test_a_connection_that_is_refused_is_opened_and_closed_without_an_endpoint():
    async with rig(apps=False) as made:
        await declared(made, AppProtocol.TCP)
        made.configure(policy([]))
        stream = await made.open()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await until(lambda: scraped(made, "istio_tcp_connections_closed_total")[1] == 1.0)
        labels, count = scraped(made, "istio_tcp_connections_opened_total")
        assert (labels | {"response_flags": ""}, count) == (UNREACHED | {"response_flags": ""}, 1.0)
        assert scraped(made, "istio_tcp_sent_bytes_total")[1] == 0.0


async def test_a_connection_that_nobody_takes_says_so():
    async with rig(apps=False) as made:
        await declared(made, AppProtocol.TCP)
        stream = await made.open()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await until(lambda: scraped(made, "istio_tcp_connections_closed_total")[1] == 1.0)
        labels, _ = scraped(made, "istio_tcp_connections_opened_total")
        assert labels["response_flags"] == "UF,URX"
        assert labels["destination_service"] == HOST


async def test_telemetry_changes_tags_of_connections_too():
    overrides = [{"tagOverrides": {"source_principal": {"operation": "REMOVE"},
                                   "port": {"value": "destination.port"}}},
                 {"match": {"metric": "TCP_SENT_BYTES"}, "disabled": True}]  # fmt: skip
    async with rig(apps=False) as made:
        await declared(made, AppProtocol.TCP)
        made.configure(config("Telemetry", "all", {"metrics": [{"overrides": overrides}]}))
        await made.app(BOTH[0], echo)
        stream = await made.open()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        labels, _ = scraped(made, "istio_tcp_connections_opened_total")
        assert "source_principal" not in labels
        assert labels["port"] == "9080"
        assert scraped(made, "istio_tcp_sent_bytes_total") == ({}, 0.0)
