"""The longer ways: other endpoints, other networks, PROXY headers, names; through real tunnels."""

import io
import struct
from ipaddress import ip_address

import msgspec
import pytest
import trio
from dnslib import QTYPE, RR, A, DNSRecord

from ambient.api.address import HostPort, NetworkAddress
from ambient.api.service import GatewayAddress, NamespacedHostname, Port, Service
from ambient.api.workload import ApplicationTunnel, ApplicationTunnelProtocol, TunnelProtocol
from ambient.hbone.core.counters import Counters
from ambient.hbone.io.server import serve
from ambient.net.io.sockets import ListenOptions, connect_in, listen_in
from ambient.telemetry.io import logs
from tests.netns.lan import echo, exchange, read_all, tell_peer
from tests.netns.tunnel import Tunnel, capture_log, running, workload
from ztunnel.io.resolver import Resolver

pytestmark = pytest.mark.netns

SPIFFE = "spiffe://cluster.local/ns/shop/sa/"
KEY = NamespacedHostname("shop", "api.shop.svc.cluster.local")
VIP = "10.96.0.7"
BEHIND = {KEY: (Port(80, 8080),)}


@pytest.fixture
def log():
    yield capture_log(io.StringIO())
    logs.configure()


def outbound(log):
    return [one for one in log.lines() if one["direction"] == "outbound"]


def service(**more):
    address = NetworkAddress("", ip_address(VIP))
    return Service(
        name="api", namespace="shop", hostname=KEY.hostname, addresses=(address,), **more
    )


def gateway_at(pod, network=""):
    return GatewayAddress(NetworkAddress(network, ip_address(pod.ip)))


@pytest.mark.parametrize("broken", ["nobody listens", "not the pod that it was", "no tunnel"])
async def test_pain_14_another_endpoint_takes_over_before_the_client_notices(lan, log, broken):
    web, good, bad = (lan.pod(name) for name in ("web", "good", "bad"))
    west = Tunnel()
    east = Tunnel(ca=west.ca)
    async with running(west, east) as nursery:
        await good.serve(8080, tell_peer, nursery)
        west.know(service(), workload(good, services=BEHIND))
        await west.enrol(web)
        await east.enrol(good, services=BEHIND)
        stale = workload(bad, services=BEHIND)
        if broken == "not the pod that it was":  # its address went to another workload
            stale = msgspec.structs.replace(stale, service_account="former")
        west.know(stale)
        if broken != "no tunnel":
            await east.enrol(bad, services=BEHIND)
        dialled = 0
        while not log.events("conn.retried"):  # the choice is random, so the first may be good
            dialled += 1
            async with await web.dial(VIP, 80) as stream:
                assert await read_all(stream) == web.ip.encode()
        with trio.fail_after(30):
            while len(lines := outbound(log)) < dialled:
                await trio.sleep(0.005)
        assert {one["dst.workload"] for one in lines} == {"good"}
        assert all("error" not in one for one in lines)


async def test_only_endpoints_that_were_not_tried_remain(lan, log):
    web, bad = lan.pod("web"), lan.pod("bad")
    tunnel = Tunnel()
    async with running(tunnel):
        tunnel.know(service())
        await tunnel.enrol(web)
        await tunnel.enrol(bad, services=BEHIND)
        async with await web.dial(VIP, 80) as stream:
            assert await read_all(stream) is None
        lines = await log.wait(2)
        assert len(lines) == 2
        assert "503" in log.errors("outbound", lines)[0]["error"]


async def gateway(tunnel, pod, target, nursery):
    """An east-west gateway: takes the outer tunnel, joins what is inside to the far pod."""
    identity = workload(pod).identity
    tls = await tunnel.node.certs.server_context(identity)
    listener = listen_in(pod.netns, 15008, ListenOptions(transparent=False)).socket
    asked = []

    async def forward(stream):
        asked.append((stream.peer, stream.request))
        upstream = await connect_in(pod.netns, HostPort(target.ip, 15008))
        stream.accept()
        await stream.couple(upstream, Counters())

    async def accept():
        with listener:
            while True:
                await trio.lowlevel.wait_readable(listener)
                nursery.start_soon(serve, tunnel.node.relay, listener.accept()[0], tls, forward)

    nursery.start_soon(accept)
    return asked


@pytest.mark.parametrize("by", ["address", "service"])
async def test_a_service_in_another_network_is_reached_through_its_gateway(lan, log, by):
    """Two networks; the far pod's tunnel knows nothing of ours, as in another cluster."""
    web, api, gw = lan.pod("web"), lan.pod("api"), lan.pod("gw")
    here = Tunnel()
    there = Tunnel(ca=here.ca, network="far")
    async with running(here, there) as nursery:
        await api.serve(8080, tell_peer, nursery)
        await there.enrol(api, services=BEHIND, network="far")
        there.know(
            Service(name="api", namespace="shop", hostname=KEY.hostname, ports=(Port(80, 8080),))
        )
        there.know(workload(gw, network="far"))  # it is not the gateway that calls
        asked = await gateway(there, gw, api, nursery)
        name = NamespacedHostname("shop", "gw.example")
        at = gateway_at(gw, "far") if by == "address" else GatewayAddress(name, 15009)
        if by == "service":
            ports = (Port(15009, 15008),)
            here.know(
                Service(name="gw", namespace="shop", hostname="gw.example", ports=ports),
                workload(gw, network="far", services={name: ports}),
            )
        else:
            here.know(workload(gw, network="far"))
        here.know(service(subject_alt_names=(SPIFFE + "api",)), far_endpoint(at))
        await here.enrol(web)
        for _ in range(2):
            async with await web.dial(VIP, 80) as stream:
                assert await read_all(stream) == gw.ip.encode()
        assert [request.authority for _, request in asked] == [f"{KEY.hostname}:80"] * 2
        assert {str(peer) for peer, _ in asked} == {SPIFFE + "web"}
        assert all(request.header("x-forwarded-network") is None for _, request in asked)
        tunnels = web.run("ss", "-Htn", "state", "established", "dport", "=", ":15008")
        assert len(tunnels.splitlines()) == 1
        lines = await log.wait(4)
        for one in outbound(log):
            assert one["dst.addr"] == f"{gw.ip}:15008"
            assert one["dst.identity"] == SPIFFE + "api"
            assert one["dst.workload"] == "api"
            assert one["bytes_recv"] == len(gw.ip)
        for one in [one for one in lines if one["direction"] == "inbound"]:
            assert one["src.identity"] == SPIFFE + "web"
            assert one["src.workload"] == "web"  # as the far side was told: it cannot look it up


def far_endpoint(at):
    """What the control plane tells about endpoints of another network: no address, a gateway."""
    one = workload(_Nowhere, services=BEHIND, network="far", network_gateway=at)
    return one


class _Nowhere:
    name = "far-api"
    ip = "192.0.2.1"
    ip6 = "2001:db8::1"


async def test_without_an_identity_to_expect_nobody_behind_a_gateway_is_trusted(lan, log):
    web, gw = lan.pod("web"), lan.pod("gw")
    tunnel = Tunnel()
    async with running(tunnel):
        tunnel.know(service(), workload(gw, network="far"), far_endpoint(gateway_at(gw, "far")))
        await tunnel.enrol(web)
        async with await web.dial(VIP, 80) as stream:
            assert await read_all(stream) is None
        (line,) = await log.wait(1)
        assert f"service {KEY} names no identity" in line["error"]


async def test_an_application_is_told_by_a_proxy_header_who_calls(lan, log):
    """A sandwiched waypoint: it speaks no HBONE, the tunnel in front of it does."""
    web, wp = lan.pod("web"), lan.pod("wp")
    tunnel = Tunnel()
    seen = trio.Event()
    heads = []

    async def application(stream, peer):
        head = await receive_exactly(stream, 16)
        (length,) = struct.unpack("!H", head[14:])
        heads.append((peer, head, await receive_exactly(stream, length)))
        seen.set()
        await echo(stream, peer)

    async with running(tunnel) as nursery:
        await wp.serve(15088, application, nursery)
        await tunnel.enrol(web)
        waypoint_key = NamespacedHostname("shop", "wp.example")
        await tunnel.enrol(
            wp,
            services={waypoint_key: ()},
            application_tunnel=ApplicationTunnel(ApplicationTunnelProtocol.PROXY, 15088),
        )
        tunnel.know(
            Service(name="wp", namespace="shop", hostname="wp.example"),
            service(ports=(Port(80, 8080),), waypoint=GatewayAddress(waypoint_key)),
        )
        async with await web.dial(VIP, 80) as stream:
            assert await exchange(stream, b"through the sandwich") == b"through the sandwich"
        with trio.fail_after(30):
            await seen.wait()
        ((peer, head, body),) = heads
        assert peer == "127.0.0.1"
        assert head[13] == 0x11
        assert str(ip_address(body[:4])) == web.ip
        assert str(ip_address(body[4:8])) == VIP
        assert struct.unpack("!H", body[10:12]) == (80,)
        assert body[12:].endswith((SPIFFE + "web").encode())
        assert all("error" not in one for one in await log.wait(2))


async def receive_exactly(stream, size):
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data


async def test_an_endpoint_that_has_only_a_name_is_resolved_by_the_tunnel(lan, log, tmp_path):
    web, outside = lan.pod("web"), lan.pod("outside")
    conf = tmp_path / "resolv.conf"
    conf.write_text("search example\nnameserver 127.0.0.1\n")
    tunnel = Tunnel()
    object.__setattr__(tunnel.node, "resolver", Resolver(str(conf)))
    questions = []

    async def dns():
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
            await sock.bind(("127.0.0.1", 53))
            while True:
                data, client = await sock.recvfrom(4096)
                query = DNSRecord.parse(data)
                questions.append(str(query.q.qname))
                reply = query.reply()
                if query.q.qtype == QTYPE.A:
                    reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(outside.ip), ttl=60))
                await sock.sendto(reply.pack(), client)

    async with running(tunnel) as nursery:
        nursery.start_soon(dns)
        await outside.serve(8080, tell_peer, nursery)
        await tunnel.enrol(web)
        named = workload(outside, hbone=False, services=BEHIND, hostname="db.example")
        tunnel.know(service(), nameless(named))
        for _ in range(2):
            async with await web.dial(VIP, 80) as stream:
                assert await read_all(stream) == web.ip.encode()
        assert questions == ["db.example."] * 2  # one for each family, then the cache
        lines = await log.wait(2)
        assert {one["dst.addr"] for one in lines} == {f"{outside.ip}:8080"}
        ((sample,),) = (metric.samples for metric in tunnel.node.name_metrics.collect())
        assert sample.name == "istio_on_demand_dns_total"
        assert (sample.value, sample.labels["hostname"]) == (2, "db.example")
        assert sample.labels["source_principal"] == SPIFFE + "web"


def nameless(one):
    return msgspec.structs.replace(one, addresses=(), tunnel_protocol=TunnelProtocol.NONE)
