"""The tunnel's sockets in its own namespace; redirects are tested in tests/netns."""

import socket
from ipaddress import ip_address

import pytest
import trio

from ambient.api.address import HostPort
from ambient.net.io.sockets import (
    SO_MARK,
    ConnectError,
    KeepAlive,
    ListenOptions,
    connect_in,
    host_port,
    listen_in,
    local_address,
    original_destination,
    peer_address,
)

pytestmark = pytest.mark.netns  # marks and transparency need CAP_NET_ADMIN


async def accept(listener):
    await trio.lowlevel.wait_readable(listener.socket)
    sock, _ = listener.socket.accept()
    return sock


async def test_a_dual_stack_listener_hands_its_mark_to_accepted_sockets():
    listener = listen_in(None, 0, ListenOptions(mark=1337))
    with listener.socket:
        assert listener.transparent
        for host in ("127.0.0.1", "::1"):
            with await connect_in(None, HostPort(host, listener.port), mark=1337) as sock:
                with await accept(listener) as accepted:
                    assert accepted.getsockopt(socket.SOL_SOCKET, SO_MARK) == 1337
                    assert peer_address(accepted).host == host
                    assert local_address(accepted) == peer_address(sock)
                    assert original_destination(accepted) == local_address(accepted)


async def test_two_processes_may_listen_on_one_port():
    first = listen_in(None, 0, ListenOptions())
    with first.socket, listen_in(None, first.port, ListenOptions()).socket:
        pass
    alone = listen_in(None, 0, ListenOptions(reuse_port=False))
    with alone.socket, pytest.raises(OSError, match="in use"):
        listen_in(None, alone.port, ListenOptions(reuse_port=False))


async def test_a_foreign_source_address_is_kept():
    listener = listen_in(None, 0, ListenOptions(host="127.0.0.1"))
    with listener.socket:
        target = HostPort("127.0.0.1", listener.port)
        with await connect_in(None, target, bind_source=ip_address("127.9.9.9")):
            with await accept(listener) as accepted:
                assert peer_address(accepted).host == "127.9.9.9"


async def test_a_refused_dial_is_named():
    listener = listen_in(None, 0, ListenOptions(host="127.0.0.1"))
    listener.socket.close()
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:9: .*refused") as caught:
        await connect_in(None, HostPort("127.0.0.1", 9))
    assert not caught.value.timed_out


async def test_a_silent_peer_ends_in_a_timeout():
    full = listen_in(None, 0, ListenOptions(host="127.0.0.1"))
    full.socket.listen(0)
    target = HostPort("127.0.0.1", full.port)
    with full.socket, await connect_in(None, target):  # the queue has room for one
        with pytest.raises(ConnectError, match=r"within 0\.05 s") as caught:
            await connect_in(None, target, timeout_s=0.05)
    assert caught.value.timed_out


async def test_a_name_cannot_be_dialled():
    with pytest.raises(ConnectError, match="not an IP"):
        await connect_in(None, HostPort("example.com", 80))


async def test_keepalive_is_set_on_request():
    listener = listen_in(None, 0, ListenOptions(host="127.0.0.1"))
    with listener.socket:
        target = HostPort("127.0.0.1", listener.port)
        with await connect_in(None, target, keep_alive=KeepAlive(7, 8, 9)) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_mapped_addresses_read_as_ipv4():
    assert host_port("::ffff:10.0.0.1", 80) == HostPort("10.0.0.1", 80)
    assert host_port("fe80::1%eth0", 80) == HostPort("fe80::1", 80)
