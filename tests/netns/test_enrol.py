"""Pods join and leave the mesh while they serve: real rules, real flows, a stand-in for ztunnel."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from ambient.net.core import wire
from ambient.net.io import net_settings
from cni_plugin.core.enrol import DNS_ANNOTATION
from tests.fakes.tunnel import FakeTunnel
from tests.netns.cni_world import PODS, Pod, dual_chain, inside, needs_cni, node, until

pytestmark = [pytest.mark.netns, needs_cni, pytest.mark.usefixtures("each_backend")]

APP_PORT = 8080


class Echo:
    """An application in a pod, or on the node (no pod): answers what it hears."""

    def __init__(
        self, nursery: trio.Nursery, pod: Pod | None, family: int = socket.AF_INET
    ) -> None:
        sock = make(pod, family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", APP_PORT))
        sock.listen()
        sock.setblocking(False)
        self.peers: list[str] = []
        self._clients: set[trio.socket.SocketType] = set()
        nursery.start_soon(self._serve, trio.socket.from_stdlib_socket(sock))

    async def _serve(self, listener: trio.socket.SocketType) -> None:
        with listener:
            async with trio.open_nursery() as nursery:
                while True:
                    client, address = await listener.accept()
                    self.peers.append(address[0])
                    nursery.start_soon(self._answer, client)

    async def _answer(self, client: trio.socket.SocketType) -> None:
        self._clients.add(client)
        with client, suppress(OSError, trio.ClosedResourceError):
            while data := await client.recv(1024):
                await client.send(data)
        self._clients.discard(client)

    def reset_all(self) -> None:
        """Abort every connection, as a process that is killed with unread data does."""
        for client in self._clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            client.close()


def make(pod: Pod | None, family: int = socket.AF_INET) -> socket.socket:
    return socket.socket(family) if pod is None else pod.netns.run(socket.socket, family)


async def dial(source: Pod | None, host: str, family: int = socket.AF_INET) -> trio.SocketStream:
    sock = make(source, family)
    sock.setblocking(False)
    client = trio.socket.from_stdlib_socket(sock)
    with trio.fail_after(5):
        await client.connect((host, APP_PORT))
    return trio.SocketStream(client)


async def echoes(stream: trio.SocketStream, text: bytes = b"still there?") -> bool:
    with trio.fail_after(5):
        await stream.send_all(text)
        return await stream.receive_some(1024) == text


async def test_pain_13_enrolment_and_leaving_keep_established_connections(tmp_path: Path) -> None:
    async with node(tmp_path, dual_chain) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop")
        web = await world.start("web")
        Echo(nursery, web)
        Echo(nursery, None)
        Echo(nursery, None, socket.AF_INET6)
        assert web.untouched()
        inbound = await dial(None, web.ip)
        outbound = await dial(web, "10.244.1.1")
        six = await dial(web, "fd00:10:244:1::1", socket.AF_INET6)
        assert await echoes(inbound)
        assert await echoes(outbound)
        assert await echoes(six)

        world.namespace("shop", "ambient")
        await until(lambda: web.annotation == "enabled")
        assert tunnel.heard[-1] == wire.Add(web.uid, "web", "shop", "web-sa")
        assert await echoes(inbound)
        assert await echoes(outbound)
        assert tunnel.captured == []
        tunnelled_in = await dial(None, web.ip)
        tunnelled_out = await dial(web, "10.244.1.1")
        assert await echoes(tunnelled_in)
        assert await echoes(tunnelled_out)
        tunnelled_six = await dial(web, "fd00:10:244:1::1", socket.AF_INET6)
        assert await echoes(tunnelled_six)
        assert tunnel.captured == [
            (15006, f"{web.ip}:8080"),
            (15001, "10.244.1.1:8080"),
            (15001, "[fd00:10:244:1::1]:8080"),
        ]

        world.namespace("shop")
        await until(lambda: web.annotation is None)
        direct = await dial(None, web.ip)
        assert await echoes(direct)
        assert len(tunnel.captured) == 3, "new connections are direct at once"
        await trio.sleep(2.5)  # longer than the least drain
        for stream in (inbound, outbound, six, tunnelled_in, tunnelled_out, tunnelled_six):
            assert await echoes(stream)
        assert wire.Del(web.uid) not in tunnel.heard, "it still carries connections of the pod"

        await tunnelled_in.aclose()
        await tunnelled_out.aclose()
        await tunnelled_six.aclose()
        await tunnel.until(wire.Del(web.uid))
        await until(web.untouched)
        assert await echoes(inbound)
        assert await echoes(outbound)
        assert await echoes(direct)
        for stream in (inbound, outbound, six, direct):
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_restarted_agent_touches_no_healthy_pod(tmp_path: Path) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        tunnel = FakeTunnel(world.zds)
        async with world.agent():
            await nursery.start(tunnel.run)
            web = await world.start("web")
            Echo(nursery, web)
            await until(lambda: web.annotation == "enabled")
            stream = await dial(None, web.ip)
            assert await echoes(stream)
            marks, version = web.capture_marks(), web.version
            assert marks
        assert web.capture_marks() == marks, "an agent that stops leaves its pods in the mesh"
        async with world.agent():
            add = wire.Add(web.uid, "web", "shop", "web-sa")
            await until(lambda: len(tunnel.sessions) > 1 and wire.SnapshotSent() in tunnel.heard)
            assert tunnel.heard == [add, wire.SnapshotSent()]
            assert await echoes(stream)
            assert web.capture_marks() == marks, "no rule was written again"
            assert web.version == version, "nor the pod in the API server"
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_an_agent_that_restarts_while_a_pod_drains_lets_it_drain(tmp_path: Path) -> None:
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        world.namespace("shop", "ambient")
        Echo(nursery, None)
        tunnel = FakeTunnel(world.zds)
        async with world.agent():
            await nursery.start(tunnel.run)
            web = await world.start("web")
            stream = await dial(web, "10.244.1.1")
            assert await echoes(stream)
            world.label(web, "none")
            await until(lambda: not web.captured())
        async with world.agent():
            await until(lambda: len(tunnel.sessions) > 1 and wire.SnapshotSent() in tunnel.heard)
            assert await echoes(stream)
            await stream.aclose()
            await tunnel.until(wire.Del(web.uid))
            await until(web.untouched)
        nursery.cancel_scope.cancel()


async def test_pain_37_a_pod_without_record_is_found_by_its_cgroup(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    async with node(tmp_path) as world, trio.open_nursery() as nursery:
        async with world.agent(if_agent_absent="start"):
            world.namespace("shop")
            web = await world.start("web")
            other = await world.start("other")
        for record in (Path(world.run_dir) / "pods").iterdir():
            record.unlink()
        # A debugger of web's pod sits in the other pod's namespace: it must not lend its identity.
        for pid, netns in (("17", other.path), ("18", web.path)):
            (proc / pid / "ns").mkdir(parents=True)
            (proc / pid / "ns/net").symlink_to(netns)
            (proc / pid / "cgroup").write_text(f"0::/kubepods/besteffort/pod{web.uid}/c{pid}\n")
            (proc / pid / "stat").write_text(f"{pid} (a b) c) S " + " ".join(["7"] * 40))
        async with world.agent(proc_dir=str(proc)):
            await nursery.start(FakeTunnel(world.zds).run)
            world.label(web, "ambient")
            await until(lambda: web.annotation == "enabled")
            assert 15001 in web.captured()
            assert other.untouched()
            world.label(other, "ambient")
            await until(lambda: any("no process" in text for text in world.warnings()))
            assert other.annotation is None
        nursery.cancel_scope.cancel()


async def test_pain_28_a_pod_without_ipv6_joins_and_leaves(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop")
        web = await world.start("web")
        for each in ("all", "default", "lo", "eth0"):
            net_settings.write(web.netns, {f"ipv6/conf/{each}/disable_ipv6": b"1"})
        Echo(nursery, web)
        Echo(nursery, None)
        world.namespace("shop", "ambient")
        await until(lambda: web.annotation == "enabled")
        streams = [await dial(None, web.ip), await dial(web, "10.244.1.1")]
        for stream in streams:
            assert await echoes(stream)
            await stream.aclose()
        assert [port for port, _ in tunnel.captured] == [15006, 15001]
        world.namespace("shop")
        await until(web.untouched)
        nursery.cancel_scope.cancel()


async def test_ztunnel_refuses_a_pod_and_takes_it_later(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop")
        web = await world.start("web")
        tunnel.refuse = "port 15001 is in use"
        world.label(web, "ambient")
        await until(lambda: any(tunnel.refuse in text for text in world.warnings()))
        assert web.untouched(), "nothing is sent to a tunnel that does not listen"
        assert web.annotation is None
        tunnel.refuse = ""
        await until(lambda: web.annotation == "enabled")
        nursery.cancel_scope.cancel()


async def test_annotations_about_capture_work_on_enrolled_pods_too(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        await nursery.start(FakeTunnel(world.zds).run)
        world.namespace("shop", "ambient")
        web = await world.start("web")
        assert web.captured() == {15001, 15006}
        bypass = "ambient.istio.io/bypass-inbound-capture"
        obj = world.api.get(PODS, "shop", "web")
        world.api.put(PODS, {**obj, "metadata": {**obj["metadata"], "annotations": {bypass: "1"}}})
        await until(lambda: web.captured() == {15001})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("default", [False, True])
async def test_dns_capture_by_setting_and_by_annotation(tmp_path: Path, default: bool) -> None:
    async with node(tmp_path) as world, world.agent(ambient_dns_capture=default):
        async with trio.open_nursery() as nursery:
            await nursery.start(FakeTunnel(world.zds).run)
            world.namespace("shop", "ambient")
            web = await world.start("web")

            def captured() -> bool:
                return 15053 in web.captured()

            def annotate(value: str) -> None:
                obj = world.api.get(PODS, "shop", "web")
                changed = {**obj["metadata"], "annotations": {DNS_ANNOTATION: value}}
                world.api.put(PODS, {**obj, "metadata": changed})

            assert captured() is default
            annotate("false" if default else "true")
            await until(lambda: captured() is not default)
            annotate("perhaps")  # counts as absent
            await until(lambda: captured() is default)
            nursery.cancel_scope.cancel()


async def test_an_unknown_label_value_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        await nursery.start(FakeTunnel(world.zds).run)
        world.namespace("shop", "ambient")
        web = await world.start("web", labels={"istio.io/dataplane-mode": "ambeint"})
        await until(lambda: world.warnings())
        (text,) = world.warnings()
        assert "'ambeint'" in text
        assert "allowed are 'ambient' and 'none'" in text
        await until(lambda: web.annotation == "enabled")
        nursery.cancel_scope.cancel()


async def test_a_forged_packet_opens_no_way_past_the_tunnel(
    tmp_path: Path, each_backend: str
) -> None:
    """netfilter may take it for a packet of an old connection; see the guard in rules.py."""
    async with node(tmp_path) as world, world.agent(), trio.open_nursery() as nursery:
        tunnel = FakeTunnel(world.zds)
        await nursery.start(tunnel.run)
        world.namespace("shop", "ambient")
        web = await world.start("web")
        Echo(nursery, web)
        first = 40000 if each_backend == "nftables" else 41000  # not used a moment ago
        forge(web.ip, source_port=first)
        stream = await dial_from(web.ip, first, patience_s=5)
        assert await echoes(stream)
        assert tunnel.captured == [(15006, f"{web.ip}:8080")]
        await stream.aclose()
        if each_backend == "ebpf":  # which keeps no connections that could be forged
            nursery.cancel_scope.cancel()
            return
        # Where the kernel follows connections from their middle, since the setting is read-only.
        net_settings.write(web.netns, {"netfilter/nf_conntrack_tcp_loose": b"1"})
        forge(web.ip, source_port=40001)
        with pytest.raises(trio.TooSlowError):
            await dial_from(web.ip, 40001, patience_s=0.5)
        inside(web.path, "nft", "flush", "chain", "inet", "istio-ambient-mangle", "input")
        forge(web.ip, source_port=40002)
        past = await dial_from(web.ip, 40002, patience_s=5)
        assert await echoes(past)
        assert len(tunnel.captured) == 1, "without the guard the application was reached directly"
        await past.aclose()
        nursery.cancel_scope.cancel()


async def dial_from(host: str, port: int, patience_s: float) -> trio.SocketStream:
    client = trio.socket.socket()
    try:
        await client.bind(("10.244.1.1", port))
        with trio.fail_after(patience_s):
            await client.connect((host, APP_PORT))
    except BaseException:
        client.close()
        raise
    return trio.SocketStream(client)


def forge(host: str, source_port: int) -> None:
    """An ACK of no connection, with an option that makes the receiver drop it without a reset."""
    md5_option = bytes([19, 18]) + bytes(16) + bytes([1, 1])  # RFC 2385
    header = struct.pack("!HHIIBBHHH", source_port, APP_PORT, 1, 1, 10 << 4, 0x10, 512, 0, 0)
    packet = header + md5_option
    pseudo = socket.inet_aton("10.244.1.1") + socket.inet_aton(host)
    pseudo += struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(packet))
    words = struct.unpack(f"!{(len(pseudo) + len(packet)) // 2}H", pseudo + packet)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet = packet[:16] + struct.pack("!H", checksum) + packet[18:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind(("10.244.1.1", 0))
        raw.sendto(packet, (host, 0))
