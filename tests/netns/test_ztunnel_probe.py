"""``POST /probe``: a pod reaches for the tunnels of others, and says how far it came."""

import json

import msgspec
import pytest
import trio

from ambient.telemetry.io.http import Request
from tests.netns.tunnel import LocalCa, Tunnel, running, workload
from ztunnel.io.admin import admin_routes

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("each_backend")]

DROP = "add table inet fault; add chain inet fault in {{ type filter hook input priority -200; }}; "
RULE = "add rule inet fault in tcp dport 15008 {verdict}"


def fault(pod, verdict):
    """The pod's own firewall, as a network plugin would set it."""
    pod.run("nft", (DROP + RULE).format(verdict=verdict))


@pytest.fixture
def web(lan):
    return lan.pod("web")


@pytest.fixture
def api(lan):
    return lan.pod("api")


async def ask(tunnel, pod, *targets, peer="127.0.0.1", method="POST"):
    routes = admin_routes(tunnel.node, tunnel.pods, trio.Event(), "info")
    query = {"pod": pod, "to": ",".join(targets)}
    return await routes(Request(method, "/probe", query, {}, peer=peer))


async def probe(tunnel, pod, *targets):
    answer = await ask(tunnel, pod.name, *targets)
    assert answer.status == 200, answer
    return json.loads(answer.body)


async def test_a_tunnel_that_answers_with_its_own_identity(web, api):
    tunnel = Tunnel()
    async with running(tunnel):
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        there, back = (
            await probe(tunnel, web, api.ip, api.ip6),
            await probe(tunnel, api, web.ip),
        )
        assert [(one["to"], one["stage"]) for one in there] == [
            (api.ip, "done"),
            (api.ip6, "done"),
        ]
        assert back[0]["stage"] == "done"
        assert there[0]["error"] == ""
        with trio.fail_after(30):
            while tunnel.node.connections.live:
                await trio.sleep(0.01)  # it leaves no connection behind


async def test_pain_3_a_rule_that_drops_and_one_that_refuses(web, api):
    tunnel = Tunnel()
    async with running(tunnel):
        await tunnel.enrol(web)
        await tunnel.enrol(api)
        fault(api, "drop")
        (one,) = await probe(tunnel, web, api.ip)
        assert one["stage"] == "connect"
        assert "no answer within" in one["error"]
        assert one["hint"] == "does a NetworkPolicy or firewall drop it?"
        api.run("nft", "flush chain inet fault in; add rule inet fault in tcp dport 15008 reject "
                "with tcp reset")  # fmt: skip
        (one,) = await probe(tunnel, web, api.ip)
        assert (one["stage"], "refused" in one["error"]) == ("connect", True)


async def test_somebody_else_at_the_address(web, api):
    near = Tunnel()
    far = Tunnel(near.ca)
    async with running(near, far):
        await near.enrol(web)
        await far.enrol(api)
        near.know(msgspec.structs.replace(workload(api), service_account="another"))
        (one,) = await probe(near, web, api.ip)
        assert one["stage"] == "handshake"
        assert "sa/api, not spiffe://cluster.local/ns/shop/sa/another" in one["error"]


async def test_certificates_of_another_authority(web, api):
    tunnel, foreign = Tunnel(), Tunnel(LocalCa())
    async with running(tunnel, foreign):
        await tunnel.enrol(web)
        await foreign.enrol(api)
        tunnel.know(workload(api))
        (one,) = await probe(tunnel, web, api.ip)
        assert one["stage"] == "handshake"
        assert "certificate" in one["error"]


async def test_what_cannot_be_meant(web):
    tunnel = Tunnel()
    async with running(tunnel):
        await tunnel.enrol(web)
        assert (await ask(tunnel, "lost", "10.0.0.1")).status == 404
        bad = await ask(tunnel, "web", "10.0.0.1", "here")
        assert (bad.status, bad.body) == (400, "'here' is no IP address\n")
        many = await ask(tunnel, "web", *(f"10.0.0.{n}" for n in range(65)))
        assert (many.status, many.body) == (400, "65 addresses, at most 64 at once\n")
        assert (await ask(tunnel, "web", "10.0.0.1", method="GET")).status == 405
        assert (await ask(tunnel, "web", "10.0.0.1", peer="10.1.2.3")).status == 403
