"""``POST /call``: a connection as the pod's application would make it, and how it ended."""

import json

import pytest
import trio

from ambient.telemetry.io.http import Request
from tests.netns import backends
from tests.netns.lan import echo
from tests.netns.test_ztunnel import DENY_WEB, STRICT
from tests.netns.tunnel import Tunnel, running
from ztunnel.io.admin import admin_routes

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("each_backend")]


@pytest.fixture
def web(lan):
    return lan.pod("web")


@pytest.fixture
def api(lan):
    return lan.pod("api")


async def ask(tunnel, pod, body, **how):
    routes = admin_routes(tunnel.node, tunnel.pods, trio.Event(), "info")
    how = {"peer": "127.0.0.1", "body": json.dumps(body).encode(), **how}
    return await routes(Request("POST", "/call", {"pod": pod}, {}, **how))


async def call(tunnel, pod, to, **http):
    answer = await ask(tunnel, pod.name, {"to": to, **({"http": http} if http else {})})
    assert answer.status == 200, answer
    return json.loads(answer.body)


async def web_server(stream, peer):
    head = await stream.receive_some()
    word = b"echo " + head.split(b"\r\n")[0]
    answer = b"HTTP/1.1 418 I am a teapot\r\nserver: me\r\ncontent-length: %d\r\n\r\n"
    await stream.send_all(answer % len(word) + word)


async def greet(stream, peer):
    await stream.send_all(b"220 mail\r\n")
    async for _ in stream:
        pass  # what is left unread would turn the end into a reset


async def test_requests_and_bare_connections_go_the_way_of_the_application(web, api):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(8080, web_server, nursery)
        await api.serve(25, greet, nursery)
        await api.serve(7, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        answer = await call(
            tunnel, web, f"{api.ip}:8080", method="PUT", path="/tea", headers=[["host", "api"]]
        )
        assert (answer["outcome"], answer["status"], answer["captured"]) == ("answered", 418, True)
        assert (answer["body"], answer["headers"]["server"]) == ("echo PUT /tea HTTP/1.1", "me")
        mail = await call(tunnel, web, f"[{api.ip6}]:25")
        assert (mail["outcome"], mail["body"], mail["captured"]) == (
            "answered",
            "220 mail\r\n",
            True,
        )
        waits = await call(tunnel, web, f"{api.ip}:7")
        assert (waits["outcome"], waits["error"]) == ("open", "")
        garbage = await call(tunnel, web, f"{api.ip}:25", headers=[["host", "api"]])
        assert (garbage["outcome"], garbage["body"]) == ("answered", "220 mail\r\n")
        assert garbage["error"] == "no answer in HTTP/1.1"
        nobody = await call(tunnel, web, f"{api.ip}:9")
        assert (nobody["outcome"], nobody["captured"]) == ("failed", True)
        assert "refused" in nobody["error"].lower() or "503" in nobody["error"], nobody


async def test_what_policies_refuse_fails_with_their_words(web, api):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(7, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        tunnel.know(DENY_WEB)
        for http in ({}, {"headers": [["host", "api"]]}):
            told = await call(tunnel, web, f"{api.ip}:7", **http)
            assert (told["outcome"], told["captured"]) == ("failed", True)
            assert "shop/no-web" in told["error"], told


async def test_a_pod_whose_redirection_is_lost_is_not_captured(web, api):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(8080, web_server, nursery)
        await tunnel.enrol(web)
        backends.drain(web.netns)
        told = await call(tunnel, web, f"{api.ip}:8080", headers=[["host", "api"]])
        assert (told["status"], told["captured"]) == (418, False)
        await tunnel.enrol(api)
        tunnel.know(STRICT)
        told = await call(tunnel, web, f"{api.ip}:8080", headers=[["host", "api"]])
        assert (told["outcome"], told["captured"]) == ("failed", False)
        assert told["error"] == "the connection was reset"


async def test_what_cannot_be_meant(web):
    tunnel = Tunnel()
    async with running(tunnel):
        await tunnel.enrol(web)
        assert (await ask(tunnel, "lost", {"to": "10.0.0.1:80"})).status == 404
        assert (await ask(tunnel, "web", {"to": "10.0.0.1:80"}, peer="10.1.2.3")).status == 403
        for body in (
            {}, {"to": "here:80"}, {"to": "10.0.0.1:0"}, {"to": "10.0.0.1:80", "port": 1},
            {"to": "10.0.0.1:80", "http": {"path": "/a b\r\n", "headers": [["host", "x"]]}},
            {"to": "10.0.0.1:80", "http": {"headers": [["host", "x\r\nx: y"]]}},
        ):  # fmt: skip
            bad = await ask(tunnel, "web", body)
            assert bad.status == 400, body
