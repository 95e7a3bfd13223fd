"""Container output as CRI log lines and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ambientctl.local.log_files import MAX_LINE_BYTES, LineCutter, LogFile, last_lines, plain


def test_output_comes_back_as_it_was(tmp_path):
    log = LogFile(tmp_path / "a.log")
    cutter = LineCutter()
    for part in (b"one\ntw", b"o\n", b"no newline"):
        log.write("stdout", cutter.feed(part))
    log.write("stdout", cutter.end())
    log.close()
    assert plain(log.path.read_bytes()) == "one\ntwo\nno newline\n"
    assert last_lines(log.path, 2) == ["two", "no newline"]


def test_a_long_line_is_cut_and_joined_again(tmp_path):
    log, cutter, text = LogFile(tmp_path / "a.log"), LineCutter(), b"x" * (MAX_LINE_BYTES * 2 + 5)
    log.write("stderr", [*cutter.feed(text + b"\n"), *cutter.end()])
    log.close()
    assert len(log.path.read_bytes().splitlines()) == 3
    assert plain(log.path.read_bytes()) == text.decode() + "\n"


@given(st.lists(st.binary(max_size=20)))
def test_no_byte_is_lost(parts):
    cutter = LineCutter()
    lines = [line for part in parts for line, _ in cutter.feed(part)]
    lines += [line for line, _ in cutter.end()]
    whole = b"".join(parts)
    assert b"\n".join(lines) == whole.removesuffix(b"\n")


def test_an_absent_file_has_no_lines(tmp_path):
    assert last_lines(tmp_path / "absent", 3) == []
