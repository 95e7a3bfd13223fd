"""The eBPF programs in a pod's namespace, with listeners that stand for the tunnel's."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ambient.api.address import HostPort
from ambient.api.ports import MARK_MASK, PROXY_MARK, REPLY_MARK
from ambient.net.core import bpf_pods, rules
from ambient.net.core.bpf_pods import Flag, PodValue
from ambient.net.core.rules import Options, Ruleset
from ambient.net.io import bpf_programs, bpf_redirect, nft, tunnel_flows
from ambient.net.io.bpf import BPF_FS, BpfError, Link, Map
from ambient.net.io.bpf_flows import DatagramNotes, announce, netns_cookie
from ambient.net.io.bpf_programs import Programs, open_programs
from ambient.net.io.bpf_redirect import BpfRedirect, PodMaps
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import (
    ListenOptions,
    connect_in,
    host_port,
    listen_in,
    original_destination,
)
from ambient.net.io.succession import handshakes
from tests.bpf import mount_bpf_fs, unavailable

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable()),
]

FOUR, SIX = socket.AF_INET, socket.AF_INET6
DNS = Options(dns=True)
PATIENCE_S = 10.0
MPTCP = 262


@pytest.fixture
def programs() -> Iterator[Programs]:
    mount_bpf_fs()
    made = open_programs("/proc")
    yield made
    for each in made.maps.values():
        each.close()
    bpf_programs.remove_programs()


@pytest.fixture
def backend(programs: Programs) -> BpfRedirect:
    return BpfRedirect(programs, PodMaps(programs.maps, programs.folder))


class Pod:
    """An enrolled pod whose tunnel listens, and accepts when the test says so."""

    def __init__(self, made: Any, backend: BpfRedirect, options: Options, stack: ExitStack) -> None:
        self.netns: Netns = made.netns
        self.ip, self.ip6, self.backend, self._stack = made.ip, made.ip6, backend, stack
        backend.admit(self.netns)
        self.tunnel = {port: self.listen(port) for port in (15001, 15006, 15008, 15053)}
        nft.apply(self.netns, Ruleset((), rules.routing(options)))
        backend.enrol(self.netns, options, ())

    def listen(self, port: int) -> socket.socket:
        made = listen_in(self.netns, port, ListenOptions(mark=PROXY_MARK)).socket
        made.setblocking(True)
        made.settimeout(PATIENCE_S)
        self._stack.callback(made.close)
        return made

    def socket(
        self, family: int = FOUR, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """Of an application in the pod."""
        made = self.netns.run(socket.socket, family, kind, protocol)
        made.settimeout(PATIENCE_S)
        self._stack.callback(made.close)
        return made

    def server(self, port: int) -> socket.socket:
        """An application that listens."""
        made = self.socket(SIX)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("::", port))
        made.listen()
        return made

    def accepted(self, port: int) -> socket.socket:
        """The next connection to the tunnel's listener."""
        sock, _ = self.tunnel[port].accept()
        self._stack.callback(sock.close)
        return sock

    def datagrams(self, host: str) -> socket.socket:
        """The tunnel's DNS socket."""
        made = self.socket(SIX if ":" in host else FOUR, socket.SOCK_DGRAM)
        made.bind((host, 15053))
        return made


@pytest.fixture
def pod(lan: Any, backend: BpfRedirect) -> Iterator[Pod]:
    with ExitStack() as stack:
        yield Pod(lan.pod("web"), backend, DNS, stack)


def dial_outside(family: int, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.settimeout(PATIENCE_S)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


OUTBOUND = {
    "IPv4": (FOUR, "10.1.2.3", "10.1.2.3"),
    "IPv6": (SIX, "2001:db8::1", "2001:db8::1"),
    "IPv4 by an IPv6 socket": (SIX, "::ffff:10.1.2.4", "10.1.2.4"),
}


@pytest.mark.parametrize(("family", "host", "original"), OUTBOUND.values(), ids=list(OUTBOUND))
def test_what_leaves_the_pod_reaches_the_tunnel_which_learns_where_it_was_going(
    pod: Pod, family: int, host: str, original: str
) -> None:
    client = pod.socket(family)
    client.connect((host, 80))
    ours = pod.accepted(15001)
    assert original_destination(ours) == HostPort(original, 80)
    own = pod.ip6 if ":" in original else pod.ip
    assert host_port(*ours.getpeername()[:2]).host == own, "its source is what it was without us"
    assert client.getpeername()[:2] == (host, 80), "nor does the application see another peer"
    assert host_port(*client.getsockname()[:2]).host == own
    client.sendall(b"hello")
    assert ours.recv(9) == b"hello"


def test_a_source_that_the_application_chose_stays(pod: Pod) -> None:
    client = pod.socket()
    client.bind((pod.ip, 45678))
    client.connect(("10.1.2.3", 80))
    ours = pod.accepted(15001)
    assert host_port(*ours.getpeername()[:2]) == HostPort(pod.ip, 45678)
    assert original_destination(ours) == HostPort("10.1.2.3", 80)


@pytest.mark.parametrize(("family", "host"), [(FOUR, "10.1.2.3"), (SIX, "2001:db8::1")])
def test_a_port_that_the_application_chose_stays_and_the_source_is_the_pod(
    pod: Pod, family: int, host: str
) -> None:
    client = pod.socket(family)
    client.bind(("", 45679))
    client.connect((host, 80))
    ours = pod.accepted(15001)
    own = pod.ip if family == FOUR else pod.ip6
    assert host_port(*ours.getpeername()[:2]) == HostPort(own, 45679)
    assert original_destination(ours) == HostPort(host, 80)
    assert client.getpeername()[:2] == (host, 80)
    assert tunnel_flows.translated(pod.netns) == 0


def test_a_query_from_a_port_that_the_application_chose(pod: Pod) -> None:
    dns, client = pod.datagrams("127.0.0.1"), pod.socket(FOUR, socket.SOCK_DGRAM)
    client.bind(("", 45680))
    client.connect(("10.96.0.10", 53))
    client.send(b"query")
    _, peer = dns.recvfrom(99)
    notes = DatagramNotes(pod.netns)
    assert notes.original_destination(host_port(*peer)) == HostPort("10.96.0.10", 53)
    notes.close()
    dns.sendto(b"answer", peer)
    assert client.recvfrom(99) == (b"answer", ("10.96.0.10", 53))


def test_other_ways_to_open_a_connection_are_no_way_around(pod: Pod) -> None:
    quick = pod.socket()
    quick.settimeout(None)
    quick.sendto(b"x", 0x20000000, ("10.1.2.5", 81))  # MSG_FASTOPEN
    assert original_destination(pod.accepted(15001)) == HostPort("10.1.2.5", 81)
    try:
        multipath = pod.socket(protocol=MPTCP)
    except OSError:
        return  # not in this kernel
    multipath.connect(("10.1.2.6", 82))
    assert original_destination(pod.accepted(15001)) == HostPort("10.1.2.6", 82)


@pytest.mark.parametrize("host", ["own", "own6", "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::"])
def test_the_pod_itself_is_reached_directly(pod: Pod, host: str) -> None:
    app = pod.server(8080)
    host = {"own": pod.ip, "own6": pod.ip6}.get(host, host)
    client = pod.socket(SIX if ":" in host else FOUR)
    client.connect((host, 8080))
    app.accept()[0].close()


def test_an_address_that_the_pod_gets_later_is_its_own_when_somebody_has_looked(
    pod: Pod, lan: Any
) -> None:
    lan.pods["web"].run("ip", "addr", "add", "10.99.0.1/32", "dev", "eth0")
    number = netns_cookie(pod.netns)
    assert pod.backend.pods.tell_own(number, bpf_redirect.own_networks(pod.netns))
    assert not pod.backend.pods.tell_own(number, bpf_redirect.own_networks(pod.netns))
    app = pod.server(8080)
    pod.socket().connect(("10.99.0.1", 8080))
    app.accept()[0].close()


@pytest.mark.parametrize(("family", "own"), [(FOUR, "ip"), (SIX, "ip6")], ids=["IPv4", "IPv6"])
def test_what_enters_the_pod_reaches_the_tunnel_at_the_address_it_was_for(
    pod: Pod, family: int, own: str
) -> None:
    host = getattr(pod, own)
    with dial_outside(family, (host, 8080)) as client:
        ours = pod.accepted(15006)
        assert original_destination(ours) == HostPort(host, 8080)
        assert host_port(*ours.getpeername()[:2]) == host_port(*client.getsockname()[:2])
    with dial_outside(family, (host, 15008)):
        pod.accepted(15008)  # HBONE is addressed to the tunnel already


async def test_the_tunnel_dials_the_application_from_the_client_s_address(
    pod: Pod, programs: Programs
) -> None:
    app = pod.server(8080)
    cookie = struct.pack("=Q", netns_cookie(pod.netns))

    def dials() -> list[bytes]:
        """Of this pod: the programs see those of other meshes on this kernel, too."""
        return [key for key in programs.maps["DIALS"].keys() if key.startswith(cookie)]  # noqa: SIM118

    for host, source in ((pod.ip, "10.200.7.7"), (pod.ip6, "fd88::7"), (pod.ip, "10.77.0.1")):
        mine = await connect_in(
            pod.netns, HostPort(host, 8080), mark=PROXY_MARK, bind_source=ip_address(source)
        )
        with mine, app.accept()[0] as its:
            assert host_port(*its.getpeername()[:2]).host == source
            its.sendall(b"answer")
            mine.setblocking(True)
            mine.settimeout(PATIENCE_S)
            assert mine.recv(9) == b"answer"
            assert mine.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) & MARK_MASK == REPLY_MARK
            assert tunnel_flows.count(pod.netns) == 1
            assert host_port(*mine.getsockname()[:2]).port in bpf_programs.DIAL_PORTS
            assert len(dials()) == 1
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        assert tunnel_flows.translated(pod.netns) == 0
        assert dials() == [], "its client may have the port"


async def test_the_tunnel_s_own_connections_go_out(pod: Pod) -> None:
    with socket.create_server(("10.77.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        with await connect_in(pod.netns, HostPort("10.77.0.1", port), mark=PROXY_MARK):
            outside.accept()[0].close()


def test_health_probes_reach_the_application(pod: Pod, lan: Any) -> None:
    app = pod.server(8080)
    lan.pods["web"].run("ip", "route", "add", "169.254.7.127/32", "via", "10.77.0.1")
    os.system("ip addr add 169.254.7.127/32 dev lo")  # of the sandbox, which is the node here
    try:
        with socket.socket() as probe:
            probe.settimeout(PATIENCE_S)
            probe.bind(("169.254.7.127", 0))
            probe.connect((pod.ip, 8080))
            its, peer = app.accept()
            its.close()
            assert peer[0] == "::ffff:169.254.7.127"
    finally:
        os.system("ip addr del 169.254.7.127/32 dev lo")


RESOLVERS = {
    "IPv4": (FOUR, "127.0.0.1", "10.96.0.10", "10.96.0.10"),
    "IPv6": (SIX, "::1", "fd00::53", "fd00::53"),
    "IPv4 by an IPv6 socket": (SIX, "127.0.0.1", "::ffff:10.96.0.11", "10.96.0.11"),
}


@pytest.mark.parametrize("connected", [True, False], ids=["connect", "sendto"])
@pytest.mark.parametrize(
    ("family", "loopback", "server", "original"), RESOLVERS.values(), ids=list(RESOLVERS)
)
def test_queries_reach_the_tunnel_and_answers_come_from_whom_was_asked(
    pod: Pod, family: int, loopback: str, server: str, original: str, connected: bool
) -> None:
    dns = pod.datagrams(loopback)
    client = pod.socket(family, socket.SOCK_DGRAM)
    if connected:
        client.connect((server, 53))
        client.send(b"query")
        assert client.getpeername()[:2] == (server, 53)
    else:
        client.sendto(b"query", (server, 53))
    query, peer = dns.recvfrom(99)
    assert query == b"query"
    notes = DatagramNotes(pod.netns)
    assert notes.original_destination(host_port(*peer[:2])) == HostPort(original, 53)
    assert notes.original_destination(HostPort("10.77.9.9", 1)) is None
    assert notes.original_destination(HostPort("no address", 1)) is None
    notes.close()
    dns.sendto(b"answer", peer)
    answer, whence = client.recvfrom(99)
    assert (answer, whence[:2]) == (b"answer", (server, 53))


def test_other_datagrams_and_queries_to_the_pod_itself_are_left_alone(pod: Pod) -> None:
    local = pod.datagrams("127.0.0.1")
    local.settimeout(0.2)
    own = pod.socket(FOUR, socket.SOCK_DGRAM)
    own.bind(("127.0.0.1", 53))
    client = pod.socket(FOUR, socket.SOCK_DGRAM)
    client.sendto(b"mine", ("127.0.0.1", 53))
    assert own.recv(9) == b"mine"
    with socket.socket(FOUR, socket.SOCK_DGRAM) as outside:
        outside.settimeout(PATIENCE_S)
        outside.bind(("10.77.0.1", 0))
        client.sendto(b"other", outside.getsockname())
        assert outside.recv(9) == b"other"
    with pytest.raises(TimeoutError):
        local.recv(9)


def test_without_a_tunnel_nobody_gets_in_or_out(pod: Pod) -> None:
    pod.server(8080)
    for port in (15001, 15006):
        pod.tunnel[port].close()
    assert not pod.backend.pods.has_listener(netns_cookie(pod.netns))
    with pytest.raises(ConnectionRefusedError):
        dial_outside(FOUR, (pod.ip, 8080))
    with pytest.raises(ConnectionRefusedError):
        pod.socket().connect(("10.77.0.1", 80))


def test_the_younger_of_two_tunnels_gets_what_is_new_and_the_older_one_when_it_is_gone(
    pod: Pod,
) -> None:
    younger = pod.listen(15006)
    with dial_outside(FOUR, (pod.ip, 8080)):
        younger.accept()[0].close()
    younger.close()
    with dial_outside(FOUR, (pod.ip, 8080)):
        pod.accepted(15006)
    assert handshakes(pod.netns, frozenset({15006})) == 0


def test_a_listener_that_is_older_than_the_programs_is_announced(
    lan: Any, backend: BpfRedirect
) -> None:
    netns = lan.pod("old").netns
    with listen_in(netns, 15006, ListenOptions(mark=PROXY_MARK)).socket as listener:
        backend.admit(netns)
        number = netns_cookie(netns)
        assert not backend.pods.has_listener(number)
        assert announce(netns, 15006, listener)
        assert announce(netns, 15006, listener), "twice is no harm"
        assert backend.pods.has_listener(number)
        assert not announce(netns, 15006, listener, "/nowhere"), "no eBPF on this node"
    assert not backend.pods.has_listener(number)


def test_a_listener_of_somebody_else_is_not_taken_for_the_tunnel_s(
    lan: Any, backend: BpfRedirect
) -> None:
    netns = lan.pod("liar").netns
    backend.admit(netns)
    with listen_in(netns, 15006, ListenOptions(mark=None)).socket:
        assert not backend.pods.has_listener(netns_cookie(netns))


def test_a_bypassed_pod_takes_its_inbound_traffic_itself(lan: Any, backend: BpfRedirect) -> None:
    with ExitStack() as stack:
        pod = Pod(lan.pod("web"), backend, Options(inbound=False), stack)
        app = pod.server(8080)
        with dial_outside(FOUR, (pod.ip, 8080)):
            app.accept()[0].close()
        pod.socket().connect(("10.1.2.3", 80))
        pod.accepted(15001)


def test_without_ipv6_only_ipv4_is_captured(lan: Any, backend: BpfRedirect) -> None:
    with ExitStack() as stack:
        pod = Pod(lan.pod("web"), backend, Options(ipv6=False), stack)
        app = pod.server(8080)
        with dial_outside(SIX, (pod.ip6, 8080)):
            app.accept()[0].close()
        with dial_outside(FOUR, (pod.ip, 8080)):
            pod.accepted(15006)


def test_draining_and_clearing_leave_what_exists(pod: Pod) -> None:
    client = pod.socket()
    client.connect(("10.1.2.3", 80))
    ours = pod.accepted(15001)
    bpf_redirect.drain(pod.backend.pods, pod.netns)
    app = pod.server(8080)
    with dial_outside(FOUR, (pod.ip, 8080)):
        app.accept()[0].close()
    bpf_redirect.clear(pod.backend.pods, pod.netns)
    assert pod.backend.pods.read(netns_cookie(pod.netns)) is None
    client.sendall(b"still there")
    assert ours.recv(99) == b"still there"
    assert client.getpeername() == ("10.1.2.3", 80)
    assert list(pod.backend.pods.links.iterdir()) == []
    bpf_redirect.clear(pod.backend.pods, pod.netns)


def test_a_newer_version_replaces_the_programs_in_their_places(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(bpf_programs.bpf_flows.FOLDER)
    number = netns_cookie(pod.netns)
    client = pod.socket()
    client.connect(("10.1.2.3", 80))
    pod.accepted(15001)

    def numbers() -> dict[str, int]:
        found = {}
        for path in sorted((folder / "links").iterdir()):
            with Link.pinned(path) as link:
                found[path.name] = link.program_id
        return found

    before, source = numbers(), bpf_programs.source()
    again = open_programs("/proc")
    assert numbers() == before, "the same version changes nothing"
    monkeypatch.setattr(bpf_programs, "source", lambda: source + "\nint newer = 1;\n")
    newer = open_programs("/proc")
    after = numbers()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert len(list(folder.glob("programs-*"))) == 1
    BpfRedirect(newer, PodMaps(newer.maps, newer.folder)).enrol(pod.netns, DNS, ())
    (link,) = pod.backend.pods.links.iterdir()
    assert link.name == f"{number}-{newer.version}"
    with dial_outside(FOUR, (pod.ip, 8080)):
        pod.accepted(15006)
    pod.socket().connect(("10.1.2.4", 80))
    assert original_destination(pod.accepted(15001)) == HostPort("10.1.2.4", 80)
    for each in (*again.maps.values(), *newer.maps.values()):
        each.close()


def test_a_pod_whose_namespace_has_ended_is_noticed(lan: Any, backend: BpfRedirect) -> None:
    with ExitStack() as stack:
        pod = Pod(lan.pod("gone"), backend, DNS, stack)
        number = netns_cookie(pod.netns)
        assert backend.pods.ended() == []
    lan.remove(lan.pods["gone"])
    deadline = time.monotonic() + PATIENCE_S
    while backend.pods.ended() != [number]:  # the kernel takes its time
        assert time.monotonic() < deadline
        time.sleep(0.01)
    backend.pods.forget(number)
    assert backend.pods.cookies() == []
    assert list(backend.pods.links.iterdir()) == []


def test_a_new_agent_finds_what_the_old_one_left(pod: Pod) -> None:
    maps = bpf_programs.open_maps()
    assert maps is not None
    found = PodMaps(maps, Path(bpf_programs.bpf_flows.FOLDER))
    number = netns_cookie(pod.netns)
    assert found.cookies() == [number]
    value = found.read(number)
    assert value == PodValue(bpf_pods.enrolled(DNS), ip_address(pod.ip), ip_address(pod.ip6))
    assert bpf_redirect.is_capturing(value)
    assert not bpf_redirect.is_capturing(PodValue(Flag.REPLIES))
    assert not found.tell_own(number, bpf_redirect.own_networks(pod.netns)), "it knows that too"
    found.close()


def test_without_a_bpf_file_system_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(BpfError, match="no BPF file system") as refused:
        open_programs("/proc", str(tmp_path / "ambient"))
    assert refused.value.hint == f"mount -t bpf bpf {tmp_path}"
    assert bpf_programs.open_maps(str(tmp_path)) is None
    bpf_programs.remove_programs(str(tmp_path / "ambient"))


def test_two_agents_on_one_machine_do_not_disturb_each_other(pod: Pod) -> None:
    """As the nodes of a local mesh: each has a folder, and both see every connect."""
    other = open_programs("/proc", f"{BPF_FS}/ambient-2")
    try:
        client = pod.socket()
        client.connect(("10.1.2.3", 80))
        assert original_destination(pod.accepted(15001)) == HostPort("10.1.2.3", 80)
        assert client.getpeername() == ("10.1.2.3", 80)
        assert not list(other.maps["PODS"].keys())
    finally:
        for each in other.maps.values():
            each.close()
        bpf_programs.remove_programs(f"{BPF_FS}/ambient-2")


def test_maps_have_the_sizes_of_the_structs(programs: Programs) -> None:
    for name, form in bpf_programs.MAPS.items():
        with Map.pinned(programs.folder / "maps-1" / name.lower()) as found:
            sizes = (found.kind, found.key_size, found.value_size)
            assert sizes == (form.kind, form.key_bytes, form.value_bytes)
