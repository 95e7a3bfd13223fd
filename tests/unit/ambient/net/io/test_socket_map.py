"""The socket map's own bookkeeping; what it does to connections is in tests/netns."""

from __future__ import annotations

from pathlib import Path

import pytest

from ambient.net.core import btf
from ambient.net.io import socket_map
from ambient.net.io.bpf import BpfError
from ambient.net.io.socket_map import Directions
from tests import bpf

needs_bpf = pytest.mark.skipif(bool(bpf.unavailable()), reason=bpf.unavailable() or "-")


def test_without_a_bpf_file_system_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(BpfError, match="no BPF file system") as caught:
        socket_map.open_socket_map("/proc", str(tmp_path / "map"))
    assert "mount -t bpf" in caught.value.hint


def test_a_kernel_without_type_information_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_map, "_KERNEL_TYPES", str(tmp_path / "vmlinux"))
    with pytest.raises(BpfError, match="type information") as caught:
        socket_map._offsets()
    assert "CONFIG_DEBUG_INFO_BTF" in caught.value.hint
    (tmp_path / "vmlinux").write_bytes(btf.words(3))
    with pytest.raises(BpfError, match=r"no sock\.sk_backlog"):
        socket_map._offsets()


def test_removing_what_is_not_there(tmp_path: Path) -> None:
    socket_map.remove_socket_map(str(tmp_path / "map"))


@needs_bpf
def test_members_are_kept_by_name() -> None:
    bpf.mount_bpf_fs()
    try:
        made = socket_map.open_socket_map("/proc")
        made.admit(4711, Directions.FROM_APPLICATION)
        made.admit(4712, Directions.BOTH)
        made.dismiss(4712)
        made.close()
        found = socket_map.open_socket_map("/proc")
        assert found.members() == {4711: Directions.FROM_APPLICATION}
        assert found.counts() == dict.fromkeys(socket_map.COUNTS, 0)
        assert found.sockets() == 0
        found.close()
    finally:
        socket_map.remove_socket_map()
    assert not Path(socket_map.FOLDER).exists()
