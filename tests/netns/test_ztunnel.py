"""Two pods in two namespaces, the real redirect rules, and the real tunnel between them."""

import io
import socket
from ipaddress import ip_address

import msgspec
import pytest
import trio

from ambient.api.address import NetworkAddress
from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.service import GatewayAddress, NamespacedHostname, Port, Service
from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.telemetry.io import logs
from tests.netns import backends
from tests.netns.lan import echo, exchange, read_all, tell_peer
from tests.netns.tunnel import Tunnel, capture_log, running, workload
from ztunnel.io import pod_identity
from ztunnel.io.pods import PodStartError

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("each_backend")]

SPIFFE = "spiffe://cluster.local/ns/shop/sa/"
ANY = StringMatch(MatchKind.PRESENCE)


def deny(name, *matches):
    return Authorization(
        name=name,
        namespace="shop",
        scope=Scope.NAMESPACE,
        action=Action.DENY,
        groups=((matches,),),
    )


STRICT = deny("strict", Match(not_principals=(ANY,)))
DENY_WEB = deny("no-web", Match(principals=(StringMatch(MatchKind.SUFFIX, "/sa/web"),)))


@pytest.fixture
def log():
    yield capture_log(io.StringIO())
    logs.configure()


@pytest.fixture
def web(lan):
    return lan.pod("web")


@pytest.fixture
def api(lan):
    return lan.pod("api")


async def both_enrolled(tunnel, web, api):
    await tunnel.enrol(web)
    await tunnel.enrol(api)


async def test_two_pods_talk_over_mutual_tls_and_the_log_names_both(web, api, log):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await both_enrolled(tunnel, web, api)
        async with await web.dial(api.ip, 8080) as stream:
            assert await exchange(stream, b"hello mesh") == b"hello mesh"
        records = {line["direction"]: line for line in await log.wait(2)}
        for record in records.values():
            assert record["src.identity"] == SPIFFE + "web"
            assert record["dst.identity"] == SPIFFE + "api"
            assert (record["bytes_sent"], record["bytes_recv"]) == (10, 10)
            assert "error" not in record
        assert records["outbound"]["dst.addr"] == f"{api.ip}:15008"
        assert records["inbound"]["dst.hbone_addr"] == f"{api.ip}:8080"
        samples = {m.name: m.samples for m in tunnel.metrics.collect()}
        opened = {s.labels["reporter"]: s for s in samples["istio_tcp_connections_opened"]}
        assert set(opened) == {"source", "destination"}
        assert opened["source"].labels["connection_security_policy"] == "mutual_tls"
        assert opened["source"].labels["destination_principal"] == SPIFFE + "api"
        for sample in samples["istio_tcp_received_bytes"]:
            assert sample.value == 10


@pytest.mark.parametrize("version", [4, 6])
async def test_the_application_sees_the_clients_address(web, api, version):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(8080, tell_peer, nursery)
        await both_enrolled(tunnel, web, api)
        target, source = (api.ip, web.ip) if version == 4 else (api.ip6, web.ip6)
        async with await web.dial(target, 8080) as stream:
            assert await read_all(stream) == source.encode()


async def test_bytes_on_the_wire_are_unreadable(web, api):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await both_enrolled(tunnel, web, api)
        seen = await capture_while(api, web, 8080)
    assert b"top secret" not in seen
    assert len(seen) > 1000  # a handshake went by


async def capture_while(api, web, port):
    """Every byte that enters or leaves the pod's interface during one exchange."""
    everything = socket.htons(0x0003)  # ETH_P_ALL
    with api.netns.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, everything) as tap:
        tap.bind(("eth0", 0x0003))
        tap.setblocking(False)
        async with await web.dial(api.ip, port) as stream:
            await exchange(stream, b"top secret")
        seen = b""
        while True:
            try:
                seen += tap.recv(65536)
            except BlockingIOError:
                return seen


async def test_a_service_address_reaches_an_endpoint(web, api, log):
    tunnel = Tunnel()
    key = NamespacedHostname("shop", "api.shop.svc.cluster.local")
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await tunnel.enrol(web)
        await tunnel.enrol(api, services={key: (Port(80, 8080),)})
        vip = NetworkAddress("", ip_address("10.96.0.7"))
        service = Service(name="api", namespace="shop", hostname=key.hostname, addresses=(vip,))
        tunnel.know(service)
        async with await web.dial("10.96.0.7", 80) as stream:
            assert await exchange(stream, b"x" * 100_000) == b"x" * 100_000
        for record in await log.wait(2):
            assert record["dst.service"] == key.hostname


async def test_a_half_closed_connection_still_answers(web, api):
    tunnel = Tunnel()

    async def count(stream, peer):
        total = 0
        async for data in stream:
            total += len(data)
        await stream.send_all(str(total).encode())

    async with running(tunnel) as nursery:
        await api.serve(8080, count, nursery)
        await both_enrolled(tunnel, web, api)
        async with await web.dial(api.ip, 8080) as stream:
            await stream.send_all(b"y" * 300_000)
            await stream.send_eof()
            assert await read_all(stream) == b"300000"


async def test_a_deny_policy_closes_the_live_connection_at_once_and_no_other(lan, web, api, log):
    tunnel = Tunnel()
    other = lan.pod("other")
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await both_enrolled(tunnel, web, api)
        await tunnel.enrol(other)
        async with await web.dial(api.ip, 8080) as cut, await other.dial(api.ip, 8080) as kept:
            await exchange(cut, b"before")
            await exchange(kept, b"before")
            tunnel.know(DENY_WEB)
            assert not await read_all(cut)
            assert await exchange(kept, b"after") == b"after"
        (record,) = log.errors("inbound", await log.wait(3))
        assert record["error"] == "connection closed due to policy change"
        async with await web.dial(api.ip, 8080) as stream:
            assert await read_all(stream) is None
        lines = await log.wait(6)
        refused = log.errors("inbound", lines)[-1]
        assert "denied by shop/no-web" in refused["error"]
        assert refused["src.identity"] == SPIFFE + "web"
        assert "401" in log.errors("outbound", lines)[-1]["error"]
        told = log.events("policy.denied")
        assert [one["policy"] for one in told] == ["shop/no-web"] * 2
        tunnel.know(forget=["shop/no-web"])
        async with await web.dial(api.ip, 8080) as stream:
            assert await exchange(stream, b"again") == b"again"


async def test_plaintext_enters_until_it_is_strict(lan, api, log):
    tunnel = Tunnel()
    outsider = lan.pod("outsider")
    async with running(tunnel) as nursery:
        await api.serve(8080, tell_peer, nursery)
        await tunnel.enrol(api)
        async with await outsider.dial(api.ip, 8080) as stream:
            assert await read_all(stream) == outsider.ip.encode()
        (record,) = await log.wait(1)
        assert record["direction"] == "inbound"
        assert "src.identity" not in record
        assert record["bytes_sent"] == len(outsider.ip)
        tunnel.know(STRICT)
        async with await outsider.dial(api.ip, 8080) as stream:
            assert await read_all(stream) is None
        refused = (await log.wait(2))[-1]
        assert "denied by shop/strict" in refused["error"]


async def test_an_address_outside_the_mesh_passes_through(lan, web, log):
    tunnel = Tunnel()
    outsider = lan.pod("outsider")
    async with running(tunnel) as nursery:
        await outsider.serve(80, tell_peer, nursery)
        await tunnel.enrol(web)
        async with await web.dial(outsider.ip, 80) as stream:
            assert await read_all(stream) == web.ip.encode()
        (record,) = await log.wait(1)
        assert record["dst.addr"] == f"{outsider.ip}:80"
        assert "dst.identity" not in record


async def test_a_refused_port_is_a_reset_and_is_told(web, api, log):
    tunnel = Tunnel()
    async with running(tunnel):
        await both_enrolled(tunnel, web, api)
        async with await web.dial(api.ip, 81) as stream:
            assert await read_all(stream) is None
        records = {line["direction"]: line for line in await log.wait(2)}
        assert "refused" in records["inbound"]["error"]
        assert "503" in records["outbound"]["error"]


async def test_a_connection_waits_for_its_workload(web, api):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await tunnel.enrol(api)
        await tunnel.serve(web)
        backends.enrol(web.netns)
        async with await web.dial(api.ip, 8080) as stream:
            await stream.send_all(b"early")
            tunnel.know(workload(web))
            assert await exchange(stream, b"") == b""
            with trio.fail_after(30):
                assert await stream.receive_some() == b"early"


async def test_enrolling_and_leaving_keep_established_connections(web, api, log):
    tunnel = Tunnel(connection_termination_deadline_s=30.0)
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        async with await web.dial(api.ip, 8080) as before:
            await exchange(before, b"plain")
            await both_enrolled(tunnel, web, api)
            assert await exchange(before, b"still plain") == b"still plain"
            async with await web.dial(api.ip, 8080) as during:
                await exchange(during, b"tunnelled")
                tunnel.know(workload(web, hbone=False), workload(api, hbone=False))
                tunnel.leave(web)
                tunnel.leave(api)
                assert await exchange(during, b"still tunnelled") == b"still tunnelled"
                async with await web.dial(api.ip, 8080) as after:
                    assert await exchange(after, b"plain again") == b"plain again"
            assert await exchange(before, b"to the end") == b"to the end"
        assert len(await log.wait(2)) == 2  # only the one in the middle went through the tunnel
        with trio.fail_after(30):
            while tunnel.pods.stopped < 2:
                await trio.sleep(0.01)


async def test_leaving_is_bounded_by_the_deadline(web, api, log):
    tunnel = Tunnel(connection_termination_deadline_s=0.2)
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await both_enrolled(tunnel, web, api)
        async with await web.dial(api.ip, 8080) as stream:
            await exchange(stream, b"x")
            tunnel.leave(web)
            assert not await read_all(stream)
        for line in await log.wait(2):
            if line["direction"] == "outbound":
                assert line["error"] == "connection closed due to connection drain"


async def test_a_pod_that_is_gone_ends_its_proxy(lan, web, api):
    tunnel = Tunnel(connection_termination_deadline_s=0.2)
    async with running(tunnel) as nursery:
        await both_enrolled(tunnel, web, api)
        lan.remove(web)
        tunnel.pods.delete("web")
        with trio.fail_after(30):
            while tunnel.pods.stopped < 1:
                await trio.sleep(0.01)
        assert set(tunnel.pods.running) == {"api"}
        assert nursery


async def test_an_application_cannot_use_the_tunnels_ports(lan, web, api, log):
    tunnel = Tunnel()
    outsider = lan.pod("outsider")
    async with running(tunnel):
        await both_enrolled(tunnel, web, api)
        for pod, host, port in [
            (web, "127.0.0.1", 15001),
            (web, web.ip, 15001),
            (web, web.ip, 15006),
            (outsider, web.ip, 15001),
            (outsider, web.ip, 15006),
        ]:
            async with await pod.dial(host, port) as stream:
                assert await read_all(stream) is None
        for line in await log.wait(5, "connection failed"):
            assert "recursive call" in line["error"]


async def test_pain_37_a_namespace_is_one_pods_and_only_with_its_address(
    web, api, log, monkeypatch
):
    monkeypatch.setattr(pod_identity, "WORKLOAD_WAIT_S", 0.3)
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(8080, tell_peer, nursery)
        await both_enrolled(tunnel, web, api)
        namespace = Netns.open(f"/proc/self/fd/{web.netns.fd}")
        with pytest.raises(PodStartError, match=r"already served as that of shop/web \(uid web\)"):
            await tunnel.pods.add(Add("other", "other", "shop", "other"), namespace)
        tunnel.pods.delete("other")
        # The control plane says that the pod is elsewhere: this namespace must not speak for it.
        tunnel.know(msgspec.structs.replace(workload(web), addresses=(ip_address("10.9.9.9"),)))
        async with await web.dial(api.ip, 8080) as stream:
            assert await read_all(stream) is None
        (line,) = await log.wait(1, "connection failed")
        assert "has none of its addresses (10.9.9.9)" in line["error"]


async def test_a_port_in_use_leaves_the_pod_pending_and_names_the_port(web, log):
    tunnel = Tunnel(inpod_port_reuse=False)
    async with running(tunnel):
        tunnel.know(workload(web))
        async with trio.open_nursery() as nursery:
            await web.serve(15006, echo, nursery)
            with pytest.raises(PodStartError, match=r"port 15006.*in use"):
                await tunnel.serve(web)
            assert tunnel.pods.pending == 1
            nursery.cancel_scope.cancel()
        tunnel.pods.delete("web")
        assert tunnel.pods.pending == 0


async def test_a_hundred_connections_share_one_tunnel(web, api):
    tunnel = Tunnel()
    async with running(tunnel) as nursery:
        await api.serve(8080, echo, nursery)
        await both_enrolled(tunnel, web, api)
        streams = []
        try:
            async with trio.open_nursery() as dialling:

                async def one():
                    stream = await web.dial(api.ip, 8080)
                    streams.append(stream)
                    assert await exchange(stream, b"ping") == b"ping"

                for _ in range(100):
                    dialling.start_soon(one)
            sockets = web.run("ss", "-Htn", "state", "established", "dport", "=", ":15008")
            assert len(sockets.splitlines()) == 1
        finally:
            for stream in streams:
                await trio.aclose_forcefully(stream)


async def test_two_nodes_of_one_mesh(web, api, log):
    west = Tunnel()
    east = Tunnel(ca=west.ca)
    async with running(west, east) as nursery:
        await api.serve(8080, tell_peer, nursery)
        west.know(workload(api))
        east.know(workload(web))
        await west.enrol(web)
        await east.enrol(api)
        async with await web.dial(api.ip, 8080) as stream:
            assert await read_all(stream) == web.ip.encode()
        assert {line["direction"] for line in await log.wait(2)} == {"inbound", "outbound"}


async def test_a_peer_with_another_identity_gets_no_byte(web, api, log):
    """The address moved to another workload and this node has not heard of it yet."""
    west = Tunnel()
    east = Tunnel(ca=west.ca)
    async with running(west, east) as nursery:
        await api.serve(8080, tell_peer, nursery)
        await west.enrol(web)
        await east.enrol(api)
        stale = msgspec.structs.replace(workload(api), service_account="former")
        west.know(stale)
        async with await web.dial(api.ip, 8080) as stream:
            assert await read_all(stream) is None
        (record,) = log.errors("outbound", await log.wait(1))
        assert SPIFFE + "former" in record["error"]


async def test_a_foreign_authority_is_not_trusted(web, api, log):
    west, east = Tunnel(), Tunnel()
    async with running(west, east) as nursery:
        await api.serve(8080, tell_peer, nursery)
        west.know(workload(api))
        await west.enrol(web)
        await east.enrol(api)
        async with await web.dial(api.ip, 8080) as stream:
            assert await read_all(stream) is None
        (record,) = log.errors("outbound", await log.wait(1))
        assert "no HBONE connection with" in record["error"]


async def test_a_waypoint_gets_the_service_address(lan, web, api, log):
    tunnel = Tunnel()
    waypoint = lan.pod("waypoint")
    vip = NetworkAddress("", ip_address("10.96.0.7"))
    service = Service(
        name="api",
        namespace="shop",
        hostname="api.shop.svc.cluster.local",
        addresses=(vip,),
        ports=(Port(80, 8080),),
        waypoint=GatewayAddress(NetworkAddress("", ip_address(waypoint.ip))),
    )
    async with running(tunnel):
        await tunnel.enrol(web)
        # A tunnel stands in for the waypoint: it proves its identity and sees the CONNECT.
        await tunnel.enrol(waypoint)
        tunnel.know(service)
        async with await web.dial("10.96.0.7", 80) as stream:
            await read_all(stream)
        (record,) = log.errors("outbound", await log.wait(1))
        assert record["dst.hbone_addr"] == "10.96.0.7:80"
        assert record["dst.identity"] == SPIFFE + "waypoint"
        assert record["dst.service"] == service.hostname


async def test_a_connection_that_is_drained_while_it_is_dialled_is_told(lan, web, log):
    tunnel = Tunnel(connection_termination_deadline_s=0.1)
    silent = lan.pod("silent")
    silent.run("nft", "add table ip t")
    silent.run("nft", "add chain ip t in { type filter hook input priority 0; policy drop; }")
    async with running(tunnel):
        await tunnel.enrol(web)
        async with await web.dial(silent.ip, 80) as stream:
            tunnel.leave(web)
            assert not await read_all(stream)
        (line,) = await log.wait(1)
        assert line["dst.addr"] == f"{silent.ip}:80"
        assert line["error"] == "connection closed due to connection drain"
