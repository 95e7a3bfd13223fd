"""DNS of enrolled pods: the real redirect rules, the real proxy, and resolvers in other pods."""

import socket
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
import trio
from dnslib import QTYPE, RCODE, DNSRecord

from ambient.api.address import NetworkAddress
from ambient.api.service import Service
from ambient.net.core import rules
from ambient.net.io import nft
from tests.fakes.dns_server import DnsServer
from tests.netns.tunnel import Tunnel, running

pytestmark = pytest.mark.netns

API = "api.shop.svc.cluster.local"


def service(hostname, *vips, namespace="shop", **more):
    return Service(
        name=hostname.partition(".")[0],
        namespace=namespace,
        hostname=hostname,
        addresses=tuple(NetworkAddress("", ip_address(vip)) for vip in vips),
        **more,
    )


@pytest.fixture
def web(lan):
    return lan.pod("web")


@pytest.fixture
def resolver(lan):
    return lan.pod("resolver")


@asynccontextmanager
async def capturing(tunnel, pod, *servers):
    """The pod is enrolled with DNS capture; ``servers`` are (DnsServer, pod, address)."""
    async with running(tunnel) as nursery:
        for server, place, host in servers:
            await nursery.start(server.run, place, host)
        tunnel.know(service(API, "10.96.0.7"))
        await tunnel.enrol(pod)
        nft.apply(pod.netns, rules.enrolled(rules.Options(dns=True)))
        yield nursery


async def ask_udp(pod, server, name, kind="A", edns=0, sock=None):
    """As an application would, with the answer that it gets."""
    query = DNSRecord.question(name, kind)
    if edns:
        from dnslib import EDNS0

        query.add_ar(EDNS0(udp_len=edns))
    return DNSRecord.parse(await exchange_udp(pod, server, query.pack()))


async def exchange_udp(pod, server, data):
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    sock = trio.socket.from_stdlib_socket(pod.netns.run(socket.socket, family, socket.SOCK_DGRAM))
    with sock, trio.fail_after(30):
        await sock.sendto(bytes(data), (server, 53))
        answer, peer = await sock.recvfrom(65535)
    assert peer[:2] == (server, 53)
    assert answer[:2] == bytes(data[:2])
    return answer


def addresses(reply):
    return sorted(str(rr.rdata) for rr in reply.rr if rr.rtype in (QTYPE.A, QTYPE.AAAA))


async def test_names_of_the_mesh_are_answered_in_the_pod(web):
    tunnel = Tunnel()
    async with capturing(tunnel, web):
        for name in ("api", "api.shop", API, f"{API}.shop.svc.cluster.local"):
            reply = await ask_udp(web, "10.96.0.10", name)
            assert addresses(reply) == ["10.96.0.7"]
            assert (reply.header.aa, reply.header.ra, reply.rr[-1].ttl) == (1, 1, 30)
        nothing = await ask_udp(web, "10.96.0.10", API, "AAAA")
        assert (nothing.header.rcode, nothing.rr) == (RCODE.NOERROR, [])


@pytest.mark.parametrize("version", [4, 6])
async def test_other_names_are_asked_of_the_resolver_that_the_pod_chose(web, resolver, version):
    host = resolver.ip if version == 4 else resolver.ip6
    server = DnsServer({("www.example.com", "A"): ["192.0.2.1"]})
    tunnel = Tunnel()
    async with capturing(tunnel, web, (server, resolver, host)):
        reply = await ask_udp(web, host, "www.example.com")
        assert addresses(reply) == ["192.0.2.1"]
        assert reply.rr[0].ttl == 60
        missing = await ask_udp(web, host, "nowhere.example.com")
        assert missing.header.rcode == RCODE.NXDOMAIN
        assert [name for _, name, _ in server.asked] == ["www.example.com", "nowhere.example.com"]
