"""UDP sockets of the tunnel in a namespace."""

import os
import socket
import subprocess

import pytest

from ambient.api.address import HostPort
from ambient.net.io.datagrams import bind_in, connect_datagrams_in, is_free_in, loopbacks_in
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import SO_MARK, ListenOptions

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs network namespaces"),
]

MARKED = ListenOptions(mark=0x539)


@pytest.fixture
def pod():
    subprocess.run(["ip", "netns", "add", "datagrams"], check=True)
    subprocess.run(["ip", "-n", "datagrams", "link", "set", "lo", "up"], check=True)
    with Netns.open("/run/netns/datagrams") as netns:
        yield netns
    subprocess.run(["ip", "netns", "del", "datagrams"], check=True)


def test_only_loopback_addresses_that_exist(pod):
    assert loopbacks_in(pod) == ("127.0.0.1", "::1")
    assert loopbacks_in(pod, ipv6=False) == ("127.0.0.1",)
    off = "net.ipv6.conf.all.disable_ipv6=1"
    subprocess.run(["ip", "netns", "exec", "datagrams", "sysctl", "-qw", off], check=True)
    assert loopbacks_in(pod) == ("127.0.0.1",)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_sockets_are_marked_and_live_in_the_namespace(pod, host):
    with bind_in(pod, host, 0, MARKED) as server:
        port = server.getsockname()[1]
        with connect_datagrams_in(pod, HostPort(host, port), 0x539) as client:
            for sock in (server, client):
                assert sock.getsockopt(socket.SOL_SOCKET, SO_MARK) == 0x539
                assert not sock.getblocking()
            client.send(b"hello")
            assert server.recvfrom(10)[0] == b"hello"


def test_a_port_may_be_shared_and_is_free_when_all_have_left(pod):
    with bind_in(pod, "127.0.0.1", 0, MARKED) as first:
        port = first.getsockname()[1]
        with bind_in(pod, "127.0.0.1", port, MARKED):
            assert not is_free_in(pod, "127.0.0.1", port)
        assert not is_free_in(pod, "127.0.0.1", port)
    assert is_free_in(pod, "127.0.0.1", port)


def test_whoever_listens_nowhere_is_told(pod):
    with connect_datagrams_in(pod, HostPort("127.0.0.1", 9), None) as client:
        client.send(b"hello?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def test_an_address_of_nobody(pod):
    with pytest.raises(OSError, match="Cannot assign"):
        bind_in(pod, "10.99.99.99", 53, MARKED)
