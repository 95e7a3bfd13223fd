"""Volumes whose content changes while somebody reads."""

from __future__ import annotations

from ambientctl.local.kubelet.volumes import arranged, write_generation
from ambientctl.local.runtime import Mount


def content(folder):
    return {p.name: p.read_text() for p in folder.iterdir() if not p.name.startswith("..")}


def test_a_new_generation_replaces_the_old_one_whole(tmp_path):
    write_generation(tmp_path, {"a": b"1", "b": b"1"})
    write_generation(tmp_path, {"a": b"2", "c": b"2"})
    assert content(tmp_path) == {"a": "2", "c": "2"}
    assert len([p for p in tmp_path.iterdir() if p.is_dir() and not p.is_symlink()]) == 1


def test_a_reader_of_the_old_generation_is_not_disturbed(tmp_path):
    write_generation(tmp_path, {"a": b"old"})
    with (tmp_path / "a").open() as reader:
        write_generation(tmp_path, {"a": b"new"})
        assert reader.read() == "old"


def test_files_in_folders_and_paths_that_would_escape(tmp_path):
    folder = tmp_path / "volume"
    write_generation(folder, {"x/y": b"1", "../../evil": b"2"})
    assert (folder / "x/y").read_text() == "1"
    assert (folder / "evil").read_text() == "2"
    assert not (tmp_path / "evil").exists()


def test_an_empty_volume_is_an_empty_folder(tmp_path):
    write_generation(tmp_path / "empty", {})
    assert content(tmp_path / "empty") == {}


def test_a_volume_above_the_programs_does_not_hide_them():
    tmp, inner = Mount("/v/tmp", "/tmp"), Mount("/v/inner", "/tmp/inner")
    programs = ["/tmp/mesh", "/tmp/mesh/.venv", "/usr", "/tmpfoo"]
    assert arranged([inner, tmp], programs) == [
        tmp,
        inner,
        Mount("/tmp/mesh", "/tmp/mesh"),
        Mount("/tmp/mesh/.venv", "/tmp/mesh/.venv"),
    ]
    assert arranged([inner], programs) == [inner]
