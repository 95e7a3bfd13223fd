"""The kernel's own connection table, with redirected flows in it."""

import os
import socket
import subprocess

import pytest

from ambient.api.address import HostPort
from ambient.net.core import rules
from ambient.net.io import net_settings, nft
from ambient.net.io.conntrack import UdpFlows, forget_unwatched
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import host_port

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace of its own"),
]

PORT = 15053
FOUR = (socket.AF_INET, "127.0.0.1", "10.99.0.53")
SIX = (socket.AF_INET6, "::1", "fd99::53")


@pytest.fixture
def netns():
    """This namespace, with somewhere to send packets to, and DNS captured."""
    commands = ("link add t0 type bridge", "addr add 10.99.0.1/24 dev t0", "link set t0 up")
    for command in (*commands, "addr add fd99::1/64 dev t0 nodad"):
        subprocess.run(["ip", *command.split()], check=True)
    with Netns.current() as here:
        nft.apply(here, rules.enrolled(rules.Options(dns=True)))
        yield here
        nft.apply(here, rules.ABSENT)
    subprocess.run(["ip", "link", "del", "t0"], check=True)


@pytest.fixture
def flows(netns):
    opened = UdpFlows(netns)
    opened.forget(PORT)  # of other tests in this namespace
    yield opened
    opened.close()
    opened.close()


def redirected(family, loopback, target, port=53):
    """Send a datagram; returns the client's socket and how it came out at the tunnel's port."""
    listener = socket.socket(family, socket.SOCK_DGRAM)
    listener.bind((loopback, PORT))
    listener.settimeout(5)
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.settimeout(5)
    client.sendto(b"query", (target, port))
    _, peer = listener.recvfrom(100)
    return client, listener, host_port(*peer[:2])


@pytest.mark.parametrize("way", [FOUR, SIX], ids=["ipv4", "ipv6"])
def test_where_a_datagram_was_sent_to(flows, way):
    _, loopback, target = way
    client, listener, peer = redirected(*way)
    with client, listener:
        reached = HostPort(loopback, PORT)
        assert flows.original_destination(peer, reached) == HostPort(target, 53)
        nobody = HostPort(peer.host, peer.port ^ 1)
        assert flows.original_destination(nobody, reached) is None
        assert flows.original_destination(peer, reached) == HostPort(target, 53)


def test_a_datagram_that_nobody_redirected(flows):
    client, listener, peer = redirected(*FOUR[:2], "127.0.0.1", PORT)
    with client, listener:
        reached = HostPort("127.0.0.1", PORT)
        assert flows.original_destination(peer, reached) in (None, reached)
        assert flows.forget(PORT) == 0


@pytest.mark.parametrize("way", [FOUR, SIX], ids=["ipv4", "ipv6"])
def test_forgotten_flows_go_where_they_wanted_to(netns, flows, way):
    _, loopback, target = way
    client, listener, peer = redirected(*way)
    with client, listener:
        nft.apply(netns, rules.draining(rules.Options()))
        client.sendto(b"still translated", (target, 53))
        assert listener.recvfrom(100)[0] == b"still translated"
        assert flows.forget(PORT) == 1
        assert flows.original_destination(peer, HostPort(loopback, PORT)) is None
        listener.setblocking(False)
        client.sendto(b"not any more", (target, 53))
        with pytest.raises(BlockingIOError):
            listener.recvfrom(100)
        assert flows.forget(PORT) == 0


def test_closed_it_knows_nothing(netns):
    flows = UdpFlows(netns)
    flows.close()
    assert flows.original_destination(HostPort("10.0.0.1", 1), HostPort("127.0.0.1", PORT)) is None
    assert flows.forget(PORT) == 0


def known(netns):
    return netns.run(net_settings.read_here, "netfilter/nf_conntrack_count") != b"0"


def talk(loopback):
    """One connection that is open now: both ends."""
    family = socket.AF_INET6 if ":" in loopback else socket.AF_INET
    with socket.create_server((loopback, 0), family=family) as server:
        client = socket.create_connection(server.getsockname()[:2])
        return client, server.accept()[0]


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_what_nobody_watches_is_forgotten(netns, loopback):
    client, server = talk(loopback)
    with client, server:
        assert known(netns)
        assert not forget_unwatched(netns), "the rules are there, and see every packet"
        assert known(netns)
        nft.apply(netns, rules.ABSENT)
        assert known(netns), "the kernel keeps it for days"
        assert forget_unwatched(netns)
        assert not known(netns)
        assert not forget_unwatched(netns)
        client.send(b"it does not matter to the connection")
        assert server.recv(100)


def test_a_table_that_a_firewall_uses_is_left_alone(netns):
    client, server = talk("127.0.0.1")
    with client, server:
        nft.apply(netns, rules.ABSENT)
        for command in (
            "add table inet firewall",
            "add chain inet firewall in { type filter hook input priority 0; }",
            "add rule inet firewall in ct state invalid drop",
        ):
            subprocess.run(["nft", command], check=True)
        try:
            assert not forget_unwatched(netns)
            assert known(netns)
        finally:
            subprocess.run(["nft", "delete table inet firewall"], check=True)
        assert forget_unwatched(netns)
