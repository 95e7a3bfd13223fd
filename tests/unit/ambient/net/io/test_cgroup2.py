from __future__ import annotations

import os
from pathlib import Path

import pytest

from ambient.api.errors import MeshError
from ambient.net.io import cgroup2


def _tree(proc: Path, place: str, *files: str) -> Path:
    folder = proc / "1/root" / place
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("place", ["sys/fs/cgroup", "sys/fs/cgroup/unified"])
def test_the_root_of_version_2_is_found(tmp_path: Path, place: str) -> None:
    made = _tree(tmp_path, place, "cgroup.controllers", "cgroup.procs")
    fd = cgroup2.open_root(str(tmp_path))
    assert os.path.samestat(os.fstat(fd), made.stat())
    os.close(fd)


def test_a_container_s_own_view_is_not_the_node_s_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup2, "_PLACES", ("sys/fs/elsewhere",))
    _tree(tmp_path, "sys/fs/elsewhere", "cgroup.controllers", "cgroup.events")
    with pytest.raises(MeshError, match="not mounted") as refused:
        cgroup2.open_root(str(tmp_path))
    assert "PROC_DIR" in refused.value.hint
