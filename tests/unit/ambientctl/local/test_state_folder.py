"""The one trace of a mesh on the host's disk."""

from __future__ import annotations

import os

import pytest

from ambient.api.errors import MeshError, UsageError
from ambientctl.local.state_folder import StateFolder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_a_failed_start_leaves_nothing(home):
    folder = StateFolder("default")
    made = []

    def start():
        with folder.create():
            made.append(folder.logs.is_dir())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start()
    assert made == [True]
    assert list(home.iterdir()) == []


def test_what_a_crashed_mesh_left_is_replaced(home):
    folder = StateFolder("default")
    with folder.create():
        (folder.path / "pid").write_text("4194304 17")
    assert not folder.is_running()
    with folder.create():
        assert not (folder.path / "pid").exists()


def test_a_process_number_that_was_given_away_again_is_no_mesh(home):
    folder = StateFolder("default")
    with folder.create():
        (folder.path / "pid").write_text(f"{os.getpid()} 17")
        assert not folder.is_running()


@pytest.mark.parametrize("name", ["", "../x", "A", "a" * 41, "-a", "a/b"])
def test_a_name_that_is_no_folder_name_is_refused(name):
    with pytest.raises(UsageError, match="cannot be the name"):
        StateFolder(name)


def test_an_unwritable_place_is_named(home):
    (home / "ambient-mesh").write_text("a file where the folder should be")
    with pytest.raises(MeshError, match="cannot make the state folder"), StateFolder("a").create():
        pass


def test_a_long_path_still_has_a_control_socket(home, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ("long" * 40)))
    folder = StateFolder("default")
    with folder.create(), folder.bind_control("control.sock") as listener:
        with folder.connect_control("control.sock") as client:
            accepted, _ = listener.accept()
            accepted.close()
            assert client.recv(1) == b""
        folder.remove()
