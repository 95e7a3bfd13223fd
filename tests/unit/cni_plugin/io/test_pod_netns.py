"""Where a pod's network namespace is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ambient.net.io.netns import Netns
from cni_plugin.io import pod_netns
from cni_plugin.settings import Settings


def test_a_path_of_the_nodes_processes_is_found_where_the_agent_sees_them(tmp_path: Path) -> None:
    """cri-dockerd (minikube with Docker) gives the plugin /proc/PID/ns/net."""
    (tmp_path / "4711/ns").mkdir(parents=True)
    (tmp_path / "4711/ns/net").symlink_to("/proc/self/ns/net")
    settings = Settings(node_name="n", proc_dir=str(tmp_path))
    with (
        pod_netns.named(settings, "/proc/4711/ns/net") as found,
        Netns.open("/proc/self/ns/net") as own,
    ):
        assert found.key == own.key
    with pytest.raises(OSError, match="4712"):
        pod_netns.named(settings, "/proc/4712/ns/net")


def test_any_other_path_is_the_same_for_both(tmp_path: Path) -> None:
    (tmp_path / "cni-1").symlink_to("/proc/self/ns/net")
    settings = Settings(node_name="n", proc_dir="/nowhere")
    with pod_netns.named(settings, str(tmp_path / "cni-1")) as found:
        assert found.key[1] > 0
