"""The youngest of the sockets on one port gets everything new; the elder lose nothing."""

from __future__ import annotations

import os
import socket

import pytest

from ambient.net.io.netns import Netns
from ambient.net.io.sockets import ListenOptions, listen_in
from ambient.net.io.succession import handshakes, sharing, take_over

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs a namespace of its own")

CONNECTIONS = 32
OPTIONS = ListenOptions(transparent=False)


def connect(port: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]


def accept_all(listener: socket.socket) -> int:
    accepted = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return accepted
        accepted += 1


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_new_connections_go_to_the_youngest_and_the_queue_stays_with_the_elder() -> None:
    elder = listen_in(None, 0, OPTIONS)
    before = connect(elder.port)
    with elder.socket, listen_in(None, elder.port, OPTIONS).socket as younger:
        assert sharing(younger) == 2
        after = connect(elder.port)
        assert accept_all(elder.socket) == CONNECTIONS
        assert accept_all(younger) == CONNECTIONS
        close(before + after)


def test_when_the_elder_leaves_the_other_gets_all_and_so_does_the_next_in_line() -> None:
    first = listen_in(None, 0, OPTIONS)
    port = first.port
    second = listen_in(None, port, OPTIONS).socket
    first.socket.close()
    clients = connect(port)
    assert accept_all(second) == CONNECTIONS
    third = listen_in(None, port, OPTIONS).socket
    clients += connect(port)
    assert (accept_all(second), accept_all(third)) == (0, CONNECTIONS)
    # the successor dies: the one that is still there takes over again
    third.close()
    clients += connect(port)
    assert accept_all(second) == CONNECTIONS
    second.close()
    close(clients)


def test_datagrams_follow_the_same_rule() -> None:
    def bound(port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
        return sock

    with bound(0) as elder:
        assert not take_over(elder), "nobody to take over from"
        with bound(elder.getsockname()[1]) as younger:
            assert take_over(younger)
            for _ in range(CONNECTIONS):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(b"?", elder.getsockname())
            assert sum(younger.recv(1) == b"?" for _ in range(CONNECTIONS)) == CONNECTIONS
            with pytest.raises(BlockingIOError):
                elder.recv(1)


def test_another_address_on_the_same_port_is_another_group() -> None:
    first = listen_in(None, 0, OPTIONS._replace(host="127.0.0.1"))
    with (
        first.socket,
        listen_in(None, first.port, OPTIONS._replace(host="127.0.0.2")).socket as two,
    ):
        assert sharing(two) == 1
        assert not take_over(two)


def test_handshakes_are_counted_until_they_are_done() -> None:
    listener = listen_in(None, 0, OPTIONS._replace(host="127.0.0.1"))
    ports = frozenset([listener.port])
    with Netns.current() as here, listener.socket:
        clients = connect(listener.port)
        assert handshakes(here, ports) == 0, "they are in the queue"
        close(clients)
