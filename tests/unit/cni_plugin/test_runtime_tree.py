"""The interpreter that the plugin brings to nodes which have none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ambient.api.errors import MeshError
from cni_plugin import runtime_tree


def test_a_missing_tool_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_tree, "TOOLS", {"no-such-tool": "install it"})
    with pytest.raises(MeshError, match="no-such-tool is missing") as failed:
        runtime_tree.build(tmp_path / "tree")
    assert failed.value.hint == "install it"
    assert not (tmp_path / "tree").exists()


def test_a_folder_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    version = "python{}.{}".format(*sys.version_info)
    (tmp_path / "tree" / "lib" / version).mkdir(parents=True)
    with pytest.raises(MeshError, match=r"cannot make .*tree"):
        runtime_tree.build(tmp_path / "tree")
