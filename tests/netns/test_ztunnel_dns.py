"""DNS of enrolled pods: the real redirect rules, the real proxy, and resolvers in other pods."""

import io
import random
import socket
import struct
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import pytest
import trio
from dnslib import EDNS0, QTYPE, RCODE, DNSRecord

from ambient.api.address import NetworkAddress
from ambient.api.ports import DNS_PORT
from ambient.api.service import NamespacedHostname, Port, Service
from ambient.net.core.rules import Options
from ambient.telemetry.io import logs
from tests.fakes.dns_server import DnsServer
from tests.netns import backends
from tests.netns.lan import read_all
from tests.netns.tunnel import Tunnel, capture_log, running
from ztunnel.io import dns, dns_upstream
from ztunnel.io.resolver import Resolver

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("each_backend")]

API = "api.shop.svc.cluster.local"
WWW = {("www.example.com", "A"): ["192.0.2.1"]}
LONG = {("long.example.com", "A"): [f"192.0.2.{n}" for n in range(1, 101)]}


@pytest.fixture
def web(lan):
    return lan.pod("web")


@pytest.fixture
def resolver(lan):
    return lan.pod("resolver")


def service(hostname, *vips, **more):
    addresses = tuple(NetworkAddress("", ip_address(vip)) for vip in vips)
    name = hostname.partition(".")[0]
    return Service(name=name, namespace="shop", hostname=hostname, addresses=addresses, **more)


@asynccontextmanager
async def capturing(pod, *servers, **settings):
    """The pod is enrolled with DNS capture; ``servers`` are (DnsServer, pod, address)."""
    tunnel = Tunnel(**settings)
    async with running(tunnel) as nursery:
        for server, place, host in servers:
            await nursery.start(server.run, place, host)
        tunnel.know(service(API, "10.96.0.7"))
        await tunnel.enrol(pod)
        capture(pod)
        yield tunnel, nursery


def capture(pod):
    backends.enrol(pod.netns, Options(dns=True))


def client(pod, server="127.0.0.1"):
    """A UDP socket of an application."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    sock = pod.netns.run(socket.socket, family, socket.SOCK_DGRAM)
    return trio.socket.from_stdlib_socket(sock)


async def ask(pod, server, name, kind="A", *, edns=0, port=53, sock=None):
    """The answer to one question over UDP, which has to come from whom it was asked of."""
    query = DNSRecord.question(name, kind)
    if edns:
        query.add_ar(EDNS0(udp_len=edns))
    with sock or client(pod, server) as own, trio.fail_after(30):
        await own.sendto(query.pack(), (server, port))
        data, peer = await own.recvfrom(65535)
        own = None if sock is None else own.detach()
    assert peer[:2] == (server, port)
    reply = DNSRecord.parse(data)
    assert reply.header.id == query.header.id
    return reply


async def ask_over_tcp(stream, *queries):
    """Send all, then read as many answers, in any order."""
    with trio.fail_after(30):
        for query in queries:
            packed = query.pack()
            await stream.send_all(len(packed).to_bytes(2, "big") + packed)
        return [await receive(stream) for _ in queries]


async def receive(stream):
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        more = await stream.receive_some(
            1 if len(data) < 2 else 2 + int.from_bytes(data[:2]) - len(data)
        )
        assert more
        data += more
    return DNSRecord.parse(data[2:])


def addresses(reply):
    return sorted(str(rr.rdata) for rr in reply.rr if rr.rtype in (QTYPE.A, QTYPE.AAAA))


async def test_names_of_the_mesh_are_answered_in_the_pod(web):
    async with capturing(web):
        for name in ("api", "api.shop", API, f"{API}.shop.svc.cluster.local"):
            reply = await ask(web, "10.96.0.10", name)
            assert addresses(reply) == ["10.96.0.7"]
            assert (reply.header.aa, reply.header.ra, reply.rr[-1].ttl) == (1, 1, 30)
        nothing = await ask(web, "10.96.0.10", API, "AAAA")
        assert (nothing.header.rcode, nothing.rr) == (RCODE.NOERROR, [])


@pytest.mark.parametrize("version", [4, 6])
async def test_other_names_are_asked_of_the_resolver_that_the_pod_chose(web, resolver, version):
    host = resolver.ip if version == 4 else resolver.ip6
    server = DnsServer(WWW)
    async with capturing(web, (server, resolver, host)):
        reply = await ask(web, host, "www.example.com")
        assert addresses(reply) == ["192.0.2.1"]
        assert (reply.rr[0].ttl, reply.header.aa) == (60, 0)
        assert (await ask(web, host, "nowhere.example.com")).header.rcode == RCODE.NXDOMAIN
        async with await web.dial(host, 53) as stream:
            queries = [DNSRecord.question(name) for name in ("api", "www.example.com", "api.shop")]
            replies = await ask_over_tcp(stream, *queries)
        found = {reply.header.id: addresses(reply) for reply in replies}
        wanted = [["10.96.0.7"], ["192.0.2.1"], ["10.96.0.7"]]
        assert [found[query.header.id] for query in queries] == wanted
    assert [(protocol, name) for protocol, name, _ in server.asked] == [
        ("udp", "www.example.com"),
        ("udp", "nowhere.example.com"),
        ("tcp", "www.example.com"),
    ]


async def test_pain_27_service_records_and_the_like_are_the_clusters(web, resolver):
    records = {(f"_http._tcp.{API}", "SRV"): [f"0 100 80 {API}."], (API, "TXT"): ['"hello"']}
    server = DnsServer(records)
    async with capturing(web, (server, resolver, resolver.ip)) as (tunnel, _):
        tunnel.know(service("outside.shop.svc.cluster.local"))  # as an ExternalName would look
        server.records["outside.shop.svc.cluster.local", "A"] = ["192.0.2.9"]
        for (name, kind), _ in records.items():
            assert len((await ask(web, resolver.ip, name, kind)).rr) == 1
        reply = await ask(web, resolver.ip, "outside.shop.svc.cluster.local")
        assert addresses(reply) == ["192.0.2.9"]


async def test_an_answer_cut_by_the_resolver_is_fetched_over_tcp(web, resolver):
    server = DnsServer(LONG)
    server.cut_over_udp = True
    async with capturing(web, (server, resolver, resolver.ip)):
        whole = await ask(web, resolver.ip, "long.example.com", edns=4096)
        assert (whole.header.tc, len(whole.rr)) == (0, 100)
        cut = await ask(web, resolver.ip, "long.example.com")
        assert (cut.header.tc, cut.rr) == (1, [])
        async with await web.dial(resolver.ip, 53) as stream:
            [reply] = await ask_over_tcp(stream, DNSRecord.question("long.example.com"))
        assert len(reply.rr) == 100
    assert [protocol for protocol, _, _ in server.asked] == ["udp", "tcp"] * 2 + ["tcp"]


async def test_without_tcp_the_cut_answer_has_to_do(web, resolver):
    server = DnsServer(LONG, tcp=False)
    server.cut_over_udp = True
    async with capturing(web, (server, resolver, resolver.ip)):
        reply = await ask(web, resolver.ip, "long.example.com", edns=4096)
        assert (reply.header.tc, reply.header.rcode) == (1, RCODE.NOERROR)


async def test_a_lost_query_is_asked_again(web, resolver, monkeypatch):
    monkeypatch.setattr(dns_upstream, "ATTEMPT_S", 0.2)
    server = DnsServer(WWW)
    server.lost = 1
    async with capturing(web, (server, resolver, resolver.ip)):
        assert addresses(await ask(web, resolver.ip, "www.example.com")) == ["192.0.2.1"]
    assert len(server.asked) == 2
    assert server.raw[0][:2] != server.raw[1][:2]  # under another number


async def test_a_dead_resolver_is_a_failure_not_a_silence(web, resolver, monkeypatch):
    silent = DnsServer(WWW, tcp=False)
    silent.lost = 100
    async with capturing(web, (silent, resolver, resolver.ip)) as (tunnel, _):
        refused = await ask(web, resolver.ip6, "www.example.com")  # nobody listens: at once
        assert (refused.header.rcode, refused.rr) == (RCODE.SERVFAIL, [])
        monkeypatch.setattr(dns_upstream, "TOTAL_S", 0.2)
        assert (await ask(web, resolver.ip, "www.example.com")).header.rcode == RCODE.SERVFAIL
        async with await web.dial(resolver.ip, 53) as stream:
            [reply] = await ask_over_tcp(stream, DNSRecord.question("www.example.com"))
        assert reply.header.rcode == RCODE.SERVFAIL
        assert addresses(await ask(web, resolver.ip, "api")) == ["10.96.0.7"]
        failures = samples(tunnel, "istio_dns_upstream_failures_total")
        assert sum(failures.values()) == 3


async def test_forged_answers_are_not_believed(web, resolver):
    def forge(data):
        lie = DNSRecord.parse(data).reply()
        other_number = bytes([data[0] ^ 1]) + lie.pack()[1:]
        other_name = DNSRecord.question("www.example.org").reply()
        other_name.header.id = lie.header.id
        yield from (other_number, other_name.pack(), data, b"", bytes(7), random.randbytes(200))

    server = DnsServer(WWW)
    server.forge = forge
    async with capturing(web, (server, resolver, resolver.ip)):
        assert addresses(await ask(web, resolver.ip, "www.example.com")) == ["192.0.2.1"]
    assert len(server.asked) == 1


async def test_the_tunnels_own_servers_where_no_resolver_was_asked(web, lan, tmp_path):
    unwilling, good = DnsServer(), DnsServer(WWW)
    unwilling.rcode = RCODE.REFUSED
    first, second = lan.pod("first"), lan.pod("second")
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"search x.test\nnameserver {first.ip}\nnameserver {second.ip}\n")
    servers = ((unwilling, first, first.ip), (good, second, second.ip))
    async with capturing(web, *servers) as (tunnel, _):
        tunnel.node.resolver._resolv_conf = Resolver(str(conf))._resolv_conf
        reply = await ask(web, "127.0.0.1", "www.example.com", port=DNS_PORT)
        assert addresses(reply) == ["192.0.2.1"]
        conf.write_text(f"nameserver {first.ip}\n")
        reply = await ask(web, "::1", "www.example.com", port=DNS_PORT)
        assert reply.header.rcode == RCODE.REFUSED
        conf.write_text("")
        reply = await ask(web, "127.0.0.1", "www.example.com", port=DNS_PORT)
        assert reply.header.rcode == RCODE.SERVFAIL
        assert addresses(await ask(web, "127.0.0.1", "api", port=DNS_PORT)) == ["10.96.0.7"]


async def test_pain_28_a_pod_without_ipv6(web, resolver):
    server = DnsServer(WWW)
    web.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    async with capturing(web, (server, resolver, resolver.ip)):
        assert addresses(await ask(web, resolver.ip, "api")) == ["10.96.0.7"]
        assert addresses(await ask(web, resolver.ip, "www.example.com")) == ["192.0.2.1"]


async def test_an_application_resolves_and_reaches_a_service(web, lan, tmp_path):
    api = lan.pod("api")
    conf = tmp_path / "resolv.conf"
    conf.write_text(
        "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\n"
        "options ndots:5\n"
    )
    bound = f"mount --bind {conf} /etc/resolv.conf"

    async def http(stream, peer):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async def inside(command):
        words = ["ip", "netns", "exec", web.name, "sh", "-c", f"{bound} && {command}"]
        with trio.fail_after(30):
            done = await trio.run_process(words, capture_stdout=True)
        return done.stdout.decode()

    async with capturing(web) as (tunnel, nursery):
        await api.serve(8080, http, nursery)
        key = NamespacedHostname("shop", API)
        await tunnel.enrol(api, services={key: (Port(80, 8080),)})
        assert (await inside("getent hosts api")).split() == ["10.96.0.7", API]
        assert (await inside("getent ahostsv4 api.shop")).split()[0] == "10.96.0.7"
        assert await inside("curl -sS http://api/") == "hello"


async def test_a_pod_that_the_control_plane_does_not_know_yet(web):
    tunnel = Tunnel()
    async with running(tunnel):
        tunnel.know(service(API, "10.96.0.7"))
        await tunnel.serve(web)
        capture(web)
        assert addresses(await ask(web, "10.96.0.10", "api")) == ["10.96.0.7"]


async def test_on_demand_everything_is_passed_on(web, resolver):
    server = DnsServer({(API, "A"): ["192.0.2.7"]})
    async with capturing(web, (server, resolver, resolver.ip), xds_on_demand=True):
        assert addresses(await ask(web, resolver.ip, API)) == ["192.0.2.7"]


async def test_switched_off(web):
    tunnel = Tunnel(istio_meta_dns_capture=False)
    async with running(tunnel):
        await tunnel.enrol(web)
        assert str(DNS_PORT) not in web.run("ss", "-Hlntu")
    async with running(Tunnel(dns_capture=False)) as _:
        pass
    tunnel = Tunnel(ipv6_enabled=False)
    async with running(tunnel):
        await tunnel.enrol(web)
        listening = web.run("ss", "-Hlntu", f"sport = :{DNS_PORT}")
        assert listening.count("127.0.0.1:15053") == 2
        assert "[::1]" not in listening


async def test_garbage_is_dropped_or_answered_and_harms_nobody(web, resolver):
    async with capturing(web, (DnsServer(WWW), resolver, resolver.ip)):
        with client(web) as noise:
            for size in (0, 1, 11, 12, 13, 40, 600, 9000):
                await noise.sendto(random.randbytes(size), (resolver.ip, 53))
        reply = await ask_raw(web, resolver.ip, bytes.fromhex("abcd01000001000000000000c00c"))
        assert (reply.header.id, reply.header.rcode) == (0xABCD, RCODE.FORMERR)
        async with await web.dial(resolver.ip, 53) as stream:
            await stream.send_all(bytes.fromhex("0003abcdef"))
            assert not await read_all(stream)
        assert addresses(await ask(web, resolver.ip, "api")) == ["10.96.0.7"]
        assert addresses(await ask(web, resolver.ip, "www.example.com")) == ["192.0.2.1"]


async def test_tcp_clients_that_leave_or_stay(web, resolver, monkeypatch):
    monkeypatch.setattr(dns, "IDLE_S", 0.2)
    log = capture_log(stream := io.StringIO())
    slow = DnsServer(LONG)
    slow.lost = 1
    async with capturing(web, (slow, resolver, resolver.ip)):
        query = DNSRecord.question("long.example.com").pack()
        framed = len(query).to_bytes(2, "big") + query
        async with await web.dial(resolver.ip, 53) as idle:
            assert await read_all(idle) == b""
        async with await web.dial(resolver.ip, 53) as half_closed:
            await half_closed.send_all(framed)
            await half_closed.send_eof()
            assert len((await receive(half_closed)).rr) == 100
            assert await read_all(half_closed) == b""
        for _ in range(3):
            gone = await web.dial(resolver.ip, 53)
            await gone.send_all(framed + framed[:7])
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(gone)
        greedy = await web.dial(resolver.ip, 53)
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        with suppress(trio.BrokenResourceError), trio.fail_after(30):
            while True:  # asks, and never reads
                await greedy.send_all(framed * 20)
        await trio.aclose_forcefully(greedy)
        assert addresses(await ask(web, resolver.ip, "api")) == ["10.96.0.7"]
    logs.configure()
    assert not log.events("conn.crashed"), stream.getvalue()


async def ask_raw(pod, server, data):
    with client(pod, server) as sock, trio.fail_after(30):
        await sock.sendto(data, (server, 53))
        return DNSRecord.parse((await sock.recvfrom(65535))[0])


async def test_more_than_a_pod_may_ask_is_refused(web, resolver, monkeypatch):
    silent = DnsServer(WWW)
    silent.lost = 3
    monkeypatch.setattr(dns, "MOST_FORWARDED", 3)
    monkeypatch.setattr(dns_upstream, "ATTEMPT_S", 1.0)
    async with capturing(web, (silent, resolver, resolver.ip)):
        with client(web) as busy:
            for _ in range(3):
                await busy.sendto(DNSRecord.question("www.example.com").pack(), (resolver.ip, 53))
            with trio.fail_after(30):
                while len(silent.asked) < 3:
                    await trio.sleep(0.005)
            reply = await ask(web, resolver.ip, "www.example.com")
            assert reply.header.rcode == RCODE.REFUSED
            assert addresses(await ask(web, resolver.ip, "api")) == ["10.96.0.7"]
            with trio.fail_after(30):  # they are asked again, and then there is room
                for _ in range(3):
                    await busy.recvfrom(65535)
        assert addresses(await ask(web, resolver.ip, "www.example.com")) == ["192.0.2.1"]


async def test_updates_and_zone_transfers_go_to_their_server(web, resolver):
    server = DnsServer({("example.com", "AXFR"): [], **WWW})
    async with capturing(web, (server, resolver, resolver.ip)):
        update = DNSRecord.question("example.com", "SOA")
        update.header.opcode = 5
        reply = await ask_raw(web, resolver.ip, update.pack())
        assert (reply.header.opcode, server.asked) == (5, [("udp", "example.com", "SOA")])
        async with await web.dial(resolver.ip, 53) as stream:
            question = DNSRecord.question("example.com", "AXFR")
            [first] = await ask_over_tcp(stream, question)
            assert first.header.id == (await receive(stream)).header.id == question.header.id
        with client(web) as direct, trio.fail_after(30):
            await direct.sendto(update.pack(), ("127.0.0.1", DNS_PORT))
            reply = DNSRecord.parse((await direct.recvfrom(65535))[0])
        assert reply.header.rcode == RCODE.NOTIMP


async def test_an_application_that_keeps_its_socket_outlives_the_mesh(web, resolver):
    server = DnsServer({("api", "A"): ["192.0.2.7"]})
    async with capturing(web, (server, resolver, resolver.ip)) as (tunnel, _):
        with client(web) as kept:
            assert addresses(await on(kept, resolver.ip, "api")) == ["10.96.0.7"]
            tunnel.leave(web)
            with trio.fail_after(30):
                while True:
                    reply = await on(kept, resolver.ip, "api", within_s=0.2)
                    if reply is not None and addresses(reply) == ["192.0.2.7"]:
                        break


async def test_an_application_that_keeps_its_socket_is_captured_when_its_pod_joins(web, resolver):
    server = DnsServer({("api", "A"): ["192.0.2.7"]})
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await nursery.start(server.run, resolver, resolver.ip)
        tunnel.know(service(API, "10.96.0.7"))
        with client(web) as kept:
            assert addresses(await on(kept, resolver.ip, "api")) == ["192.0.2.7"]
            await tunnel.enrol(web)
            capture(web)
            assert addresses(await on(kept, resolver.ip, "api")) == ["10.96.0.7"]


async def on(sock, server, name, within_s=30):
    """Ask on this very socket; None where no answer comes in time."""
    query = DNSRecord.question(name)
    await sock.sendto(query.pack(), (server, 53))
    with trio.move_on_after(within_s):
        while True:
            reply = DNSRecord.parse((await sock.recvfrom(65535))[0])
            if reply.header.id == query.header.id:
                return reply
    return None


async def test_a_successor_takes_over_without_losing_a_query(web, resolver):
    server = DnsServer(WWW)
    async with capturing(web, (server, resolver, resolver.ip)) as (old, nursery):
        new = Tunnel(ca=old.ca)
        await nursery.start(new.run)
        new.know(service(API, "10.96.0.7"))
        asked = 0
        async with trio.open_nursery() as asking:
            stop = trio.Event()

            async def keep_asking():
                nonlocal asked
                with client(web) as kept:
                    while not stop.is_set():
                        for name in ("api", "www.example.com"):
                            assert await on(kept, resolver.ip, name, within_s=2) is not None
                            asked += 1

            for _ in range(8):
                asking.start_soon(keep_asking)
            await until(lambda: asked > 50)
            await new.serve(web)
            old.pods.drain()
            with trio.fail_after(30):
                await old.pods.finished()
            before = asked
            await until(lambda: asked > before + 50)
            stop.set()
        assert samples(new, "istio_dns_requests_total")


async def until(condition):
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.005)


def samples(tunnel, name):
    """Values of one metric, by its labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for metric in tunnel.node.dns_metrics.collect()
        for sample in metric.samples
        if sample.name == name
    }


async def test_metrics_and_log(web, resolver):
    log = capture_log(stream := io.StringIO())
    logs.configure("debug", json=True, stream=stream)
    try:
        async with capturing(web, (DnsServer(WWW), resolver, resolver.ip)) as (tunnel, _):
            await ask(web, resolver.ip, "api")
            await ask(web, resolver.ip, "www.example.com", "A")
            await ask(web, resolver.ip, "www.example.com", "AAAA")
            labels = ("udp", "web", "unknown")
            assert samples(tunnel, "istio_dns_requests_total") == {
                ("a", *labels): 2,
                ("aaaa", *labels): 1,
            }
            assert samples(tunnel, "istio_dns_upstream_requests_total") == {
                ("a", *labels): 1,
                ("aaaa", *labels): 1,
            }
            assert not samples(tunnel, "istio_dns_upstream_failures_total")
            counts = samples(tunnel, "istio_dns_upstream_request_duration_seconds_count")
            assert list(counts.values()) == [1, 1]
    finally:
        logs.configure()
    [answered] = log.events("dns.answered")
    assert {key: answered[key] for key in ("scope", "level", "src.workload", "src.namespace")} == {
        "scope": "dns",
        "level": "debug",
        "src.workload": "web",
        "src.namespace": "shop",
    }
    assert (answered["query"], answered["domain"], answered["endpoints"]) == ("A", "api", 1)
    assert len(log.events("dns.forwarded")) == 2
