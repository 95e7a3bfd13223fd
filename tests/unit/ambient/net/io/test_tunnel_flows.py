"""Counting what the tunnel still carries, by its sockets' mark."""

from __future__ import annotations

import os
import socket

import pytest

from ambient.api.ports import HBONE_PORT, PROXY_MARK
from ambient.net.io import tunnel_flows
from ambient.net.io.netns import Netns

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root in a namespace (tests/sandbox)"),
]
SO_MARK = 36


def listener(port: int, mark: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
    sock.bind(("127.0.0.1", port))
    sock.listen()
    return sock


def test_only_open_connections_with_the_mark_count() -> None:
    with Netns.current() as here, listener(0, PROXY_MARK) as ours, listener(0, 7) as others:
        before = tunnel_flows.count(here)
        with (
            socket.create_connection(others.getsockname()),
            socket.create_connection(ours.getsockname()) as client,
        ):
            assert tunnel_flows.count(here) == before + 1, "even before it is accepted"
            accepted, _ = ours.accept()
            with accepted:
                assert tunnel_flows.count(here) == before + 1
                client.close()
            assert tunnel_flows.count(here) == before, "TIME_WAIT needs no rules"


def test_idle_hbone_connections_do_not_count() -> None:
    with Netns.current() as here, listener(HBONE_PORT, PROXY_MARK) as hbone:
        before = tunnel_flows.count(here)
        with socket.create_connection(hbone.getsockname()):
            assert tunnel_flows.count(here) == before
