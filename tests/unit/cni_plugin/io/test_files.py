"""Files that appear and change in one step."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ambient.api.errors import MeshError
from cni_plugin.io import files


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "10-pods.conflist"
    files.replace(path, "one")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one", 0o600)
    path.chmod(0o644)
    files.replace(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o644)
    files.replace(path, "two", mode=0o755)
    assert path.stat().st_mode & 0o777 == 0o755


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MeshError, match=r"cannot write .*folder"):
        files.replace(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EROFS, "readOnly"), (errno.ENOSPC, "disk"), (errno.EACCES, "writable")],
)
def test_the_hint_fits_the_failure(number: int, hint: str) -> None:
    assert hint in files.unwritable(Path("x"), OSError(number, "reason")).hint
