"""The image as a pod has it: a root that cannot be written, and the users that manifests name.

The file system is given (docs/install.md), since building one needs a network and some minutes.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import textwrap
import tomllib
from pathlib import Path

import pytest

from tests import bpf

CONTAINERFILE = Path("Containerfile").read_text()
(ENV,) = re.findall(r"^ENV (.+)$", CONTAINERFILE, re.MULTILINE)
VERSION = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
PROGRAMS = ("istiod-lite", "ztunnel", "waypoint", "ambient-cni-agent")
UNPRIVILEGED = 1337
"""Whom the image and the restricted pods run as."""


@pytest.fixture(scope="module")
def root() -> Path:
    given = os.environ.get("AMBIENT_IMAGE_ROOT")
    if not given:
        pytest.skip("no image: AMBIENT_IMAGE_ROOT is its file system, see docs/install.md")
    return Path(given)


def run(
    root: Path, *words: str, user: int = UNPRIVILEGED, mounts: str = ""
) -> subprocess.CompletedProcess[str]:
    """In the image, where only ``/tmp`` and what ``mounts`` adds can be written."""
    script = f"""
        mount --rbind {root} {root} && mount -o remount,bind,ro {root}
        mount -t tmpfs -o mode=1777 tmpfs {root}/tmp
        mount -t proc proc {root}/proc && mount --bind /dev {root}/dev
        {mounts}
        exec chroot --userspec={user}:{user} --groups= {root} /usr/bin/env -i \
          {ENV} "$@"
    """
    return subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script, "image", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_starts_as_nobody_on_a_root_that_cannot_be_written(
    root: Path, program: str
) -> None:
    done = run(root, program, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{VERSION}\n", "")
    assert run(root, "sh", "-c", "echo > /opt/x").returncode != 0


def test_without_a_cluster_each_says_what_is_missing(root: Path) -> None:
    """As far as a program comes alone: everything is imported, and nothing had to be written."""
    for program, missing in {
        "istiod-lite": "kubeconfig",
        "ztunnel": "cannot enter network namespaces",
        "waypoint": "POD_NAME",
        "ambient-cni-agent": "NODE_NAME",
    }.items():
        done = run(root, "timeout", "20", program)
        assert done.returncode not in (0, 124, 126, 127), done
        assert missing in done.stderr, done
        assert "Traceback" not in done.stderr
        assert "hint: " in done.stderr


def test_the_command_line_has_its_manifests(root: Path) -> None:
    done = run(root, "ambientctl", "install", "--dry-run", "--profile", "production")
    assert done.returncode == 0, done.stderr
    assert "kind: DaemonSet" in done.stdout


def test_the_agents_plugin_runs_on_a_node_without_python(root: Path, tmp_path: Path) -> None:
    """Written by the image's agent into the node's folder, run with nothing else of the image."""
    node = tmp_path / "node" / "bin"
    node.mkdir(parents=True)
    install = f"starter.install('/tmp', '/opt/ambient-cni-runtime', {str(node)!r})"
    code = f"from cni_plugin.io import starter; {install}"
    done = run(root, "python", "-c", code, user=0, mounts=f"mount --bind {node} {root}/tmp")
    assert done.returncode == 0, done.stderr
    bare = ["env", "-i", "CNI_COMMAND=VERSION", str(node / "ambient-cni")]
    done = subprocess.run(bare, input='{"cniVersion":"1.0.0"}', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]


def test_redirection_and_socket_map_by_ebpf(root: Path) -> None:
    """Of the variant with bcc: everything compiles and loads where only ``/tmp`` can be written."""
    if not (root / "usr/lib/python3/dist-packages/bcc").exists():
        pytest.skip("no bcc in this image: EXTRA adds it, see docs/install.md")
    if reason := bpf.unavailable():
        pytest.skip(reason)
    mounts = f"""
        mount -t sysfs sysfs {root}/sys && mount -t bpf bpf {root}/sys/fs/bpf
        mount -t cgroup2 cgroup2 {root}/sys/fs/cgroup
    """
    code = """
        from ambient.net.io import bpf_programs, socket_map
        bpf_programs.open_programs("/proc").lookup_program(1)
        bpf_programs.remove_programs()
        socket_map.open_socket_map("/proc")
        socket_map.remove_socket_map()
    """
    done = run(root, "python", "-c", textwrap.dedent(code), user=0, mounts=mounts)
    assert (done.returncode, done.stderr) == (0, "")


def test_nobody_else_can_change_what_runs(root: Path) -> None:
    for path in (root / "opt").rglob("*"):
        found = path.lstat()
        if not path.is_symlink():
            assert not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH), path
            assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID), path
            assert found.st_mode & stat.S_IROTH, path


def test_what_only_builds_is_not_in_it(root: Path) -> None:
    packages = next((root / "opt/ambient-mesh/lib").glob("python3*")) / "site-packages"
    assert not [name for name in ("pip", "setuptools") if (packages / name).exists()]
    assert not list((root / "var/lib/apt/lists").iterdir())
    for tool in ("patchelf", "gcc", "git", "curl"):
        assert not (root / "usr/bin" / tool).exists(), tool
    named = re.search(r"site-packages/(kubernetes/\w+) ", CONTAINERFILE)
    assert named is None or not (packages / named[1]).exists()
