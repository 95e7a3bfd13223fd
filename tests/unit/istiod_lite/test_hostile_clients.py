"""Clients that misbehave: each costs little, is named in the log, and the others notice nothing."""

import json
import queue
import resource
import threading

import grpc
import pytest
import structlog
import trio
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from envoy.service.status.v3 import csds_pb2
from google.rpc import status_pb2

from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from istiod_lite.io import xds_clients
from tests.unit.istiod_lite.objects import pod
from tests.unit.istiod_lite.test_app import (
    PODS,
    SETTINGS,
    ZTUNNEL,
    control_plane,
    first_answer,
    standing_mesh,
    subscribed,
)

NODE = {"id": "ztunnel~10.0.0.1~zt-1.istio-system~istio-system.svc.cluster.local"}
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class Client:
    """One stream over the plaintext port, driven from a thread of the test's."""

    def __init__(self, port):
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", (("grpc.use_local_subchannel_pool", 1),)
        )
        self.requests = queue.SimpleQueue()
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self.channel)
        self.call = stub.DeltaAggregatedResources(iter(self.requests.get, None))

    def send(self, **fields):
        self.requests.put(pb.DeltaDiscoveryRequest(**fields))

    def receive(self):
        return next(self.call)

    def close(self):
        self.requests.put(None)
        self.call.cancel()
        self.channel.close()


@pytest.fixture
async def plane(tmp_path, monkeypatch):
    api = standing_mesh()
    with structlog.testing.capture_logs() as logs:
        async with control_plane(api, tmp_path, monkeypatch) as made:
            made.api, made.logs, made.folder = api, logs, tmp_path
            yield made


def port(plane):
    return plane.ports["xds_plaintext_port"]


def named(plane, event):
    return [one for one in plane.logs if one["event"] == event]


async def others_are_served(plane):
    """A proper client gets the mesh and its changes."""
    async with subscribed(plane, plane.folder, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, changed):
        assert "Kubernetes//Pod/shop/web" in held
        plane.api.put(PODS, pod("new", "shop", "10.1.0.77", account="web", node="n1"))
        while "Kubernetes//Pod/shop/new" not in held:
            await changed.receive()


async def test_refusing_for_ever_is_named_ever_more_rarely(plane):
    def refuse():
        client = Client(port(plane))
        client.send(node=NODE, type_url=ADDRESS_TYPE)
        nonce = client.receive().nonce
        for _ in range(100):
            error = status_pb2.Status(code=3, message="x" * 100_000)
            client.send(type_url=ADDRESS_TYPE, response_nonce=nonce, error_detail=error)
        client.send(type_url=AUTHORIZATION_TYPE)
        client.receive()
        client.close()

    await trio.to_thread.run_sync(refuse)
    nacks = named(plane, "xds.nack")
    assert [one["refusals"] for one in nacks] == [1, 2, 4, 8, 16, 32, 64]
    assert all(len(one["error"]) <= 1000 for one in nacks)
    assert "zt-1.istio-system" in nacks[0]["client"]
    await others_are_served(plane)


async def test_never_answering_is_noticed(plane, monkeypatch):
    monkeypatch.setattr(xds_clients, "UNACKED_S", -1.0)

    def subscribe():
        client = Client(port(plane))
        client.send(node=NODE, type_url=ADDRESS_TYPE)
        client.receive()
        return client

    client = await trio.to_thread.run_sync(subscribe)
    plane.xds.clients.look()
    plane.xds.clients.look()
    (slow,) = named(plane, "xds.client_slow")
    assert slow["types"] == [ADDRESS_TYPE]
    await others_are_served(plane)
    await trio.to_thread.run_sync(client.close)


async def test_saying_nothing_or_reading_nothing_ends_the_stream(plane, monkeypatch):
    silent = Client(port(plane))

    def status():
        with pytest.raises(grpc.RpcError) as caught:
            silent.receive()
        silent.close()
        return caught.value.code()

    with trio.fail_after(30):
        while not plane.xds.clients._calls:
            await trio.sleep(0.01)
    monkeypatch.setattr(xds_clients, "FIRST_MESSAGE_S", -1.0)
    plane.xds.clients.look()
    assert await trio.to_thread.run_sync(status) == grpc.StatusCode.CANCELLED
    (limited,) = named(plane, "xds.client_limited")
    assert limited["limit"] == "silent"
    with trio.fail_after(30):
        while plane.xds.clients._calls:
            await trio.sleep(0.01)
    await others_are_served(plane)


@pytest.mark.parametrize(
    "fields",
    [
        {"resource_names_subscribe": ["x" * 2000]},
        {"resource_names_subscribe": [f"/{n}" for n in range(100_001)]},
    ],
    ids=["a long name", "many names"],
)
async def test_subscriptions_have_limits(plane, fields):
    def subscribe():
        client = Client(port(plane))
        client.send(node=NODE, type_url=ADDRESS_TYPE, **fields)
        with pytest.raises(grpc.RpcError) as caught:
            client.receive()
        client.close()
        return caught.value.code()

    assert await trio.to_thread.run_sync(subscribe) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert named(plane, "xds.client_limited")[0]["limit"] == "subscription"
    await others_are_served(plane)


async def test_made_up_types_and_rubbish(plane):
    def invent():
        client = Client(port(plane))
        client.send(node=NODE, type_url="made.up/0")
        for number in range(1, 100):
            client.send(type_url=f"made.up/{number}")
        with pytest.raises(grpc.RpcError) as invented:
            list(client.call)
        client.close()
        return invented.value.code()

    assert await trio.to_thread.run_sync(invent) == grpc.StatusCode.RESOURCE_EXHAUSTED
    await others_are_served(plane)


@pytest.mark.parametrize("before", [0, 1])
async def test_who_sends_rubbish_is_let_go_and_named(plane, before):
    first = pb.DeltaDiscoveryRequest(node=NODE, type_url=ADDRESS_TYPE).SerializeToString()

    def rubbish():
        with grpc.insecure_channel(f"127.0.0.1:{port(plane)}") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                list(channel.stream_stream(DELTA)(iter([first] * before + [b"\xff" * 1000])))
            return caught.value

    error = await trio.to_thread.run_sync(rubbish)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "1000 bytes that are no request" in error.details()
    (one,) = named(plane, "xds.client_limited")
    assert (one["limit"], one["client"].partition(":")[0]) == ("unreadable", "ipv4")
    await others_are_served(plane)


async def test_a_thousand_streams_of_one_client_cost_few_threads(plane):
    threads, memory = threading.active_count(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def flood():
        channel = grpc.insecure_channel(f"127.0.0.1:{port(plane)}")
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        first = pb.DeltaDiscoveryRequest(node=NODE, type_url=ADDRESS_TYPE)
        refused = 0
        kept = []
        for _ in range(1000):
            requests = queue.SimpleQueue()
            requests.put(first)
            call = stub.DeltaAggregatedResources(iter(requests.get, None))
            try:
                next(call)
                kept.append((requests, call))
            except grpc.RpcError as error:
                refused += error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                requests.put(None)
        for requests, call in kept:
            requests.put(None)
            call.cancel()
        channel.close()
        return len(kept), refused

    kept, refused = await trio.to_thread.run_sync(flood)
    assert (kept, refused) == (SETTINGS.max_streams_per_client, 1000 - kept)
    (limited,) = named(plane, "xds.client_limited")
    assert "MAX_STREAMS_PER_CLIENT" in limited["reason"]
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown_kib < 100_000
    assert threading.active_count() - threads < 200
    await others_are_served(plane)


async def test_pain_49_who_reconnects_is_sent_only_what_it_does_not_have(plane):
    def connect(versions):
        client = Client(port(plane))
        client.send(node=NODE, type_url=ADDRESS_TYPE, initial_resource_versions=versions)
        answer = client.receive()
        client.close()
        return answer

    first = await trio.to_thread.run_sync(connect, {})
    versions = {one.name: one.version for one in first.resources}
    again = await trio.to_thread.run_sync(connect, versions)
    assert (list(again.resources), list(again.removed_resources)) == ([], [])
    changed = dict(versions, **{"Kubernetes//Pod/shop/web": "older", "Kubernetes//Pod/x/gone": "1"})
    partly = await trio.to_thread.run_sync(connect, changed)
    assert [one.name for one in partly.resources] == ["Kubernetes//Pod/shop/web"]
    assert list(partly.removed_resources) == ["Kubernetes//Pod/x/gone"]


async def test_status_as_istioctl_asks_for_it(plane):
    def ask(type_url, names=()):
        channel = grpc.insecure_channel(f"127.0.0.1:{port(plane)}")
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        request = pb.DiscoveryRequest(node=NODE, type_url=type_url, resource_names=names)
        request.response_nonce = "2026-01-01"  # istioctl makes one up
        requests = queue.SimpleQueue()
        requests.put(request)
        call = stub.StreamAggregatedResources(iter(requests.get, None))
        try:
            return next(call)
        finally:
            requests.put(None)
            call.cancel()
            channel.close()

    async with subscribed(plane, plane.folder, "zt", ZTUNNEL, [ADDRESS_TYPE]):
        answer = await trio.to_thread.run_sync(ask, "istio.io/debug/syncz")
        row = csds_pb2.ClientConfig()
        assert answer.resources[0].Unpack(row)
        assert row.node.id == "zt-1.istio-system"
        assert row.generic_xds_configs[0].type_url == ADDRESS_TYPE
        assert json.loads(answer.control_plane.identifier)["Component"] == "istiod"
        answer = await trio.to_thread.run_sync(ask, "istio.io/debug", ["connections"])
        assert json.loads(answer.resources[0].value)["totalClients"] == 1
    with pytest.raises(grpc.RpcError) as caught:
        await trio.to_thread.run_sync(ask, "type.googleapis.com/envoy.config.cluster.v3.Cluster")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "DeltaAggregatedResources" in caught.value.details()
    assert (
        await trio.to_thread.run_sync(
            first_answer,
            plane.ports["xds_port"],
            (plane.folder / "root.pem").read_bytes(),
            "zt",
            NODE,
        )
        is None
    )
