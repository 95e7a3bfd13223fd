"""The trial of the kernel passes here, and fails where the map does nothing or bounds nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ambient.net.io import socket_map, socket_map_trial
from ambient.net.io.bpf import BpfError
from ambient.net.io.socket_map import SocketMap
from tests import bpf

pytestmark = pytest.mark.skipif(bool(bpf.unavailable()), reason=bpf.unavailable() or "-")


@pytest.fixture
def made() -> Iterator[SocketMap]:
    bpf.mount_bpf_fs()
    yield (opened := socket_map.open_socket_map("/proc"))
    opened.close()
    socket_map.remove_socket_map()


def test_this_kernel_passes_and_nothing_stays(made: SocketMap) -> None:
    socket_map_trial.prove(made)
    assert made.members() == {}
    assert made.sockets() == 0
    counts = made.counts()
    assert (counts["joined"], counts["crowded"]) == (1, 1)


def test_a_map_that_joins_nothing(made: SocketMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SocketMap, "admit", lambda *_: None)
    with pytest.raises(BpfError, match="does not join"):
        socket_map_trial.prove(made)


def test_a_kernel_that_does_not_count_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it did not: a number that is always small is looked at instead."""
    bpf.mount_bpf_fs()
    fields = {**socket_map._FIELDS, "SOCK_QUEUED": "sock.sk_err"}
    monkeypatch.setattr(socket_map, "_FIELDS", fields)
    try:
        with socket_map.open_socket_map("/proc") as opened:
            with pytest.raises(BpfError, match="does not count"):
                socket_map_trial.prove(opened)
    finally:
        socket_map.remove_socket_map()
