"""The installer in a folder: starter, modes, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ambient.api.errors import MeshError
from cni_plugin.core.conflist import NoConflistError
from cni_plugin.io import install

PTP = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}


def test_the_files_mode_stays(tmp_path: Path) -> None:
    path = tmp_path / "10-pods.conflist"
    path.write_text(json.dumps(PTP))
    path.chmod(0o640)
    before = install.signature(str(tmp_path))
    assert install.install(str(tmp_path), {})
    assert path.stat().st_mode & 0o777 == 0o640
    assert install.signature(str(tmp_path)) != before
    assert not install.install(str(tmp_path), {})
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert install.uninstall(str(tmp_path))
    assert json.loads(path.read_text()) == PTP


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="nowhere") as failed:
        install.install(str(tmp_path / "nowhere"), {})
    assert "CNI_NET_DIR" in failed.value.hint
    assert install.signature(str(tmp_path / "nowhere")) == ()


def test_an_empty_folder_has_to_wait(tmp_path: Path) -> None:
    with pytest.raises(NoConflistError):
        install.install(str(tmp_path), {})
