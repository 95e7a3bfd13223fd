"""Where a pod's network namespace is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambient.net.io.netns import Netns
from cni_plugin.io import pod_netns
from cni_plugin.settings import Settings

OWN = os.stat("/proc/self/ns/net")
KEY = (OWN.st_dev, OWN.st_ino)


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """A process in another network namespace."""
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo; exec cat"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    yield process.pid
    process.communicate()


def process(proc: Path, number: int, really: int | str = "self") -> None:
    """A process of the node that is, in truth, this one or another."""
    folder = proc / str(number) / "ns"
    folder.mkdir(parents=True)
    (folder / "net").symlink_to(f"/proc/{really}/ns/net")


def test_a_process_of_the_node_is_found_where_the_agent_sees_it(tmp_path: Path) -> None:
    """cri-dockerd (minikube with Docker) gives the plugin /proc/PID/ns/net."""
    process(tmp_path, 4194305)  # no process of this machine has that number
    settings = Settings(node_name="n", proc_dir=str(tmp_path))
    for key in (KEY, None):
        found = pod_netns.named(settings, "/proc/4194305/ns/net", key)
        assert found is not None
        with found:
            assert found.key == KEY
    with pytest.raises(FileNotFoundError):
        pod_netns.named(settings, "/proc/4194306/ns/net", KEY)


def test_a_process_that_only_the_agent_itself_sees(tmp_path: Path, elsewhere: int) -> None:
    """``ambientctl enroll --pid`` on a machine whose agent is no container: the node's process of
    that number is another one.
    """
    number = os.getpid()
    process(tmp_path, number, elsewhere)
    settings = Settings(node_name="n", proc_dir=str(tmp_path))
    found = pod_netns.named(settings, f"/proc/{number}/ns/net", KEY)
    assert found is not None
    found.close()


def test_a_name_that_leads_to_another_namespace_by_now(tmp_path: Path, elsewhere: int) -> None:
    process(tmp_path, 7, elsewhere)
    settings = Settings(node_name="n", proc_dir=str(tmp_path))
    assert pod_netns.named(settings, f"{tmp_path}/7/ns/net", KEY) is None


def test_any_other_path_is_the_same_for_both(tmp_path: Path) -> None:
    (tmp_path / "cni-1").symlink_to("/proc/self/ns/net")
    settings = Settings(node_name="n", proc_dir="/nowhere")
    found = pod_netns.named(settings, str(tmp_path / "cni-1"), None)
    assert isinstance(found, Netns)
    with found:
        assert found.key == KEY
