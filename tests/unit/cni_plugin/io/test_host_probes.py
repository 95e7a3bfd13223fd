"""Whose connections are health probes: the kubelet's user, as the node's processes show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cni_plugin.io.host_probes import kubelet_uid


def process(proc: Path, pid: int, name: str, uids: str = "0\t0\t0\t0") -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "comm").write_text(f"{name}\n")
    (proc / str(pid) / "status").write_text(f"Name:\t{name}\nUid:\t{uids}\nGid:\t0\t0\t0\t0\n")


@pytest.mark.parametrize("name", ["kubelet", "kubelite", "k3s", "k3s-server"])
def test_the_file_systems_user_counts_which_sockets_belong_to(tmp_path: Path, name: str) -> None:
    process(tmp_path, 1, "systemd")
    process(tmp_path, 812, name, "0\t0\t0\t998")
    (tmp_path / "sys").mkdir()
    (tmp_path / "900").mkdir()  # a process that has just ended
    assert kubelet_uid(str(tmp_path)) == 998


def test_without_a_kubelet_nobody_is_it(tmp_path: Path) -> None:
    process(tmp_path, 1, "kubelet-wrapper")
    assert kubelet_uid(str(tmp_path)) is None
