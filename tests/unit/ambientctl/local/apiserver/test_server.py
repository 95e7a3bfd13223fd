"""The server on a real socket: TLS, watches, disconnects, limits."""

from __future__ import annotations

import ssl
import time

import httpx
import msgspec
import pytest
import trio

from ambientctl.local.apiserver.core.cluster import Call
from ambientctl.local.apiserver.core.requests import BODY_MAX_BYTES
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.server import ApiServer
from ambientctl.local.apiserver.settings import Settings
from tests.unit.ambientctl.local.worlds import pod, service

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"


async def open_watch(running, path):
    """A connection on which the server has begun to answer a watch."""
    context = ssl.create_default_context(cadata=running.server.ca_pem)
    port = int(running.url.rpartition(":")[2])
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context)
    token = running.server.settings.admin_token
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    await stream.send_all(head.encode())
    answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 200")
    return stream


async def test_the_certificate_verifies_and_strangers_are_refused(running):
    async with running.client() as client:
        assert (await client.get("/version")).json()["minor"] == "32"
    context = ssl.create_default_context(cadata=running.server.ca_pem)
    async with httpx.AsyncClient(base_url=running.url, verify=context) as stranger:
        assert (await stranger.get("/healthz")).text == "ok"
        refused = await stranger.get("/api/v1/pods")
        assert (refused.status_code, refused.json()["reason"]) == (401, "Unauthorized")


async def test_old_tls_is_refused(running):
    context = ssl.create_default_context(cadata=running.server.ca_pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with httpx.AsyncClient(base_url=running.url, verify=context) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/healthz")


async def test_a_change_reaches_a_watcher_in_milliseconds(running):
    running.server.apply_manifest(NAMESPACE)
    cluster = running.server.cluster
    kind = cluster.catalogue.of("v1", "Service")
    path = f"/api/v1/services?watch=1&resourceVersion={cluster.store.revision}"
    async with await open_watch(running, path) as stream:
        before = time.perf_counter()
        cluster.create(kind, "shop", service(), Call())
        with trio.fail_after(30):
            chunk = await stream.receive_some()
        took_s = time.perf_counter() - before
    _, line, _ = chunk.split(b"\r\n", 2)
    event = msgspec.json.decode(line)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "web")
    assert took_s < 5  # a busy machine; without load it is about one millisecond


async def test_a_watch_ends_after_its_time_and_the_connection_serves_on(running):
    async with running.client() as client:
        async with client.stream("GET", "/api/v1/nodes?watch=1&timeoutSeconds=0") as response:
            assert [line async for line in response.aiter_lines()] == []
        assert (await client.get("/readyz")).status_code == 200


async def test_a_client_that_leaves_ends_its_watch(running):
    subscribers = running.server.cluster.store._subscribers["", "nodes"]
    before = len(subscribers)
    async with await open_watch(running, "/api/v1/nodes?watch=1"):
        assert len(subscribers) == before + 1
    with trio.fail_after(30):
        while len(subscribers) > before:
            await trio.sleep(0.01)


async def test_a_log_comes_in_pieces(running):
    running.server.apply_manifest(NAMESPACE)
    async with running.client() as client:
        path = "/api/v1/namespaces/shop/pods"
        assert (await client.post(path, json=pod())).status_code == 201
        assert (await client.get(f"{path}/web/log")).text == "one\ntwo\n"
        assert (await client.get(f"{path}/web/log?follow=true")).text == "one\ntwo\nthree\n"


async def test_a_body_beyond_the_limit_is_refused(running):
    async with running.client() as client:
        body = b" " * (BODY_MAX_BYTES + 1)
        answer = await client.post("/api/v1/namespaces/default/pods", content=body)
        assert answer.status_code == 413


async def test_bytes_that_are_no_http_end_that_connection_only(running):
    context = ssl.create_default_context(cadata=running.server.ca_pem)
    port = int(running.url.rpartition(":")[2])
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context)
    async with stream:
        await stream.send_all(b"\x00garbage\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 400")
    plain = await trio.open_tcp_stream("127.0.0.1", port)
    async with plain:
        await plain.send_all(b"GET / HTTP/1.1\r\n\r\n")
    async with running.client() as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_a_mistake_of_ours_is_a_500_and_the_server_lives(running, monkeypatch):
    monkeypatch.setattr(running.server.cluster, "select", lambda *_: 1 / 0)
    async with running.client() as client:
        assert (await client.get("/api/v1/pods")).status_code == 500
        assert (await client.get("/version")).status_code == 200


async def test_a_stream_that_fails_midway_ends_that_connection_only(running, monkeypatch):
    async def broken(wish):
        yield b"one\n"
        raise ValueError("the disk is gone")

    running.server.apply_manifest(NAMESPACE)
    monkeypatch.setattr(running.server, "_pod_logs", broken)
    async with running.client() as client:
        path = "/api/v1/namespaces/shop/pods"
        await client.post(path, json=pod())
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{path}/web/log")
        assert (await client.get("/healthz")).text == "ok"


def test_a_new_server_knows_its_own_service():
    server = ApiServer(Settings(endpoints=("172.30.0.1",), endpoint_port=6443))
    store = server.cluster.store
    own = store.get(("", "services"), "default", "kubernetes")
    assert own["spec"]["clusterIP"] == "10.96.0.1"
    (slice_,) = store.objects(("discovery.k8s.io", "endpointslices"), "default")
    assert slice_["endpoints"][0]["addresses"] == ["172.30.0.1"]
    assert slice_["ports"][0]["port"] == 6443


def test_manifests_at_start_up():
    server = ApiServer(Settings())
    namespace, *_ = server.apply_manifest(f"{NAMESPACE}---\n---\n{NAMESPACE}")
    assert namespace["status"]["phase"] == "Active"
    with pytest.raises(ApiError, match='no matches for kind "Nonsense"'):
        server.apply_manifest("apiVersion: v1\nkind: Nonsense\n")
    with pytest.raises(ApiError, match="unknown field"):
        server.apply_manifest(f"{NAMESPACE}extra: 1\n")
