"""Connections into pods through the embedded API server's WebSockets, and questions over them."""

from __future__ import annotations

import pytest
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.io.client import KubeClient
from ambient.kube.io.port_forward import ForwardError, forwarded
from ambient.telemetry.io.http import Response
from ambientctl.console import run
from ambientctl.reach import PodPort, ask, ask_json, running_pods


@pytest.fixture
def at(ambientctl):
    ambientctl.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}")
    ambientctl.pod("shop/web", "10.244.1.5", labels={"app": "web"})

    def call(question, *args):
        async def task():
            async with KubeClient.connect(str(ambientctl.kubeconfig)) as kube:
                return await question(kube, *args)

        return run(task)

    return call


WEB = PodPort("shop", "web", 15000)


def test_an_answer_of_some_megabytes_arrives_whole(ambientctl, at):
    text = "0123456789abcdef" * 200_000
    ambientctl.program("shop/web", 15000, {"/long": text, "/json": {"a": [1]}})
    assert at(ask, WEB, "/long") == text.encode()
    assert at(ask_json, WEB, "/json") == {"a": [1]}


def test_refusals_say_what_and_where(ambientctl, at):
    with pytest.raises(ForwardError, match=r"port 15000 of pod shop/web: .*Connection refused"):
        at(ask, WEB, "/")
    ambientctl.program(
        "shop/web", 15000, {"/no": lambda _: Response(503, "not yet"), "/text": "text"}
    )
    with pytest.raises(MeshError, match="shop/web:15000/no answers 503: not yet"):
        at(ask, WEB, "/no")
    with pytest.raises(MeshError, match="does not answer with JSON"):
        at(ask_json, WEB, "/text")
    with pytest.raises(NotFound, match="gone"):
        at(ask, PodPort("shop", "gone", 1), "/")


def test_only_running_pods_are_found_and_forwarded_to(ambientctl, at):
    assert [pod["metadata"]["name"] for pod in at(running_pods, None, "app=web")] == ["web"]
    ambientctl.status("v1", "Pod", "shop/web", {"phase": "Pending"})
    assert at(running_pods, None, "app=web") == []
    with pytest.raises(KubeError, match="is not running"):
        at(ask, WEB, "/")


def test_a_connection_carries_bytes_both_ways_until_it_is_closed(ambientctl, at):
    async def talk(kube):
        async with forwarded(kube, "shop", "web", 15000) as stream:
            await stream.send_all(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
            data = b""
            with trio.fail_after(30):
                while b"done" not in data:
                    data += await stream.receive_some(7)
            return data

    ambientctl.program("shop/web", 15000, {"/echo": "done"})
    assert b"200 OK" in at(talk).replace(b"200 \r", b"200 OK\r")


def test_a_request_that_is_no_websocket_is_refused(at):
    async def plain(kube):
        return await kube.request("GET", "/api/v1/namespaces/shop/pods/web/portforward?ports=1")

    with pytest.raises(KubeError, match="neither WebSocket nor SPDY"):
        at(plain)
