"""The plugin on a node: run by the agent's interpreter, or by one that it brings along."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from ambient.api.errors import MeshError
from cni_plugin import runtime_tree
from cni_plugin.io import starter


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder that the image has."""
    path = tmp_path_factory.mktemp("image") / "runtime"
    runtime_tree.build(path)
    return str(path)


def ask(*command: str) -> dict[str, object]:
    done = subprocess.run(
        command,
        env={"CNI_COMMAND": "VERSION"},
        input=b'{"cniVersion": "1.0.0"}',
        capture_output=True,
        check=True,
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_starter_is_the_plugin(tmp_path: Path) -> None:
    starter.install(str(tmp_path))
    assert starter.installed(str(tmp_path))
    assert ask(str(tmp_path / "ambient-cni"))["cniVersion"] == "1.0.0"
    assert starter.traces(str(tmp_path)) == [f"{tmp_path}/ambient-cni"]


@pytest.mark.netns
def test_a_node_without_python_without_libraries_and_without_a_shell(
    tmp_path: Path, tree: str
) -> None:
    node = tmp_path / "node"
    folder = node / "opt/cni/bin"
    folder.mkdir(parents=True)
    starter.install(str(folder), tree, "/opt/cni/bin")
    assert sorted(os.listdir(node)) == ["opt"]
    assert (
        "1.1.0"
        in ask("/usr/sbin/chroot", str(node), "/opt/cni/bin/ambient-cni")["supportedVersions"]
    )  # type: ignore[operator]


def test_installing_again_changes_nothing(tmp_path: Path, tree: str) -> None:
    starter.install(str(tmp_path), tree)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    starter.install(str(tmp_path), tree)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_upgrade_keeps_the_tree_that_a_running_plugin_may_need(
    tmp_path: Path, tree: str
) -> None:
    folder, image = tmp_path / "bin", tmp_path / "image"
    folder.mkdir()
    image.mkdir()
    for version in ("one", "two", "three"):
        (image / runtime_tree.DIGEST).write_text(version)
        starter.install(str(folder), str(image))
    trees = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert trees == [".ambient-cni-three", ".ambient-cni-two"]
    assert ".ambient-cni-three/" in (folder / "ambient-cni").read_text()


def test_a_tree_that_somebody_removed_is_brought_again(tmp_path: Path, tree: str) -> None:
    starter.install(str(tmp_path), tree)
    (gone,) = (path for path in tmp_path.iterdir() if path.is_dir())
    gone.rename(tmp_path / "elsewhere")
    starter.install(str(tmp_path), tree)
    assert gone.is_dir()


def test_uninstalling_leaves_nothing(tmp_path: Path, tree: str) -> None:
    (tmp_path / "ptp").write_text("somebody else's")
    starter.install(str(tmp_path), tree)
    assert len(starter.traces(str(tmp_path))) == 2
    assert starter.uninstall(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["ptp"]
    assert not starter.uninstall(str(tmp_path))
    assert starter.traces("") == []


def test_folders_that_cannot_work_are_named(tmp_path: Path, tree: str) -> None:
    with pytest.raises(MeshError, match="nowhere"):
        starter.install(str(tmp_path / "nowhere"))
    with pytest.raises(MeshError, match="holds no interpreter") as failed:
        starter.install(str(tmp_path), str(tmp_path))
    assert "runtime_tree" in failed.value.hint
    with pytest.raises(MeshError, match="too long"):
        starter.install(str(tmp_path), tree, "/" + "x" * 200)
    with pytest.raises(MeshError, match=r"cannot copy|cannot write"):
        starter.install(str(tmp_path / "nowhere"), tree)
    assert list(tmp_path.iterdir()) == []
