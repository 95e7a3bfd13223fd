"""The system call against the running kernel."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambient.net.io import bpf, cgroup2
from ambient.net.io.bpf import (
    AttachType,
    BpfError,
    Link,
    Map,
    MapType,
    Program,
    ProgramType,
    program_id,
)
from tests.bpf import mount_bpf_fs, unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())

ALLOW = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0)  # return 1
KEEP_A_POINTER = struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 was never set


@pytest.fixture
def names() -> Iterator[Path]:
    """A folder for pinned objects."""
    mount_bpf_fs()
    folder = Path(bpf.BPF_FS, f"test-{os.getpid()}")
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_elements_come_and_go() -> None:
    with Map.create(MapType.HASH, "numbers", (4, 8), 10) as numbers:
        numbers.put(b"aaaa", b"12345678")
        numbers.put(b"bbbb", b"abcdefgh")
        assert numbers.get(b"aaaa") == b"12345678"
        assert sorted(numbers.keys()) == [b"aaaa", b"bbbb"]
        assert numbers.drop(b"aaaa")
        assert not numbers.drop(b"aaaa")
        assert numbers.get(b"aaaa") is None


def test_a_map_that_is_full_says_so() -> None:
    with Map.create(MapType.HASH, "small", (4, 4), 1) as small:
        small.put(b"aaaa", b"1111")
        with pytest.raises(OSError, match=r"map is full \(1 entries\)"):
            small.put(b"bbbb", b"2222")


def test_what_is_pinned_is_found_again(names: Path) -> None:
    with Map.create(MapType.HASH, "lasting", (4, 4), 4) as made:
        made.put(b"aaaa", b"1111")
        made.pin(names / "lasting")
    with Map.pinned(names / "lasting") as found:
        assert found.get(b"aaaa") == b"1111"
        assert (found.kind, found.key_size, found.max_entries) == (MapType.HASH, 4, 4)


def test_a_link_outlives_its_maker_and_gets_another_program(names: Path) -> None:
    root = cgroup2.open_root("/proc")
    kind, place = ProgramType.CGROUP_SOCK_ADDR, AttachType.CONNECT4
    with (
        Program.load(kind, "first", ALLOW, place) as first,
        Program.load(kind, "second", ALLOW, place) as second,
    ):
        with Link.create(first, root, place) as link:
            link.pin(names / "link")
        with Link.pinned(names / "link") as found:
            assert found.program_id == program_id(first)
            found.replace(second)
            assert found.program_id == program_id(second)
    os.close(root)


def test_the_verifier_s_reason_is_told() -> None:
    with pytest.raises(BpfError, match="R0 !read_ok"):
        Program.load(ProgramType.CGROUP_SOCK_ADDR, "broken", KEEP_A_POINTER, AttachType.CONNECT4)


def test_a_closed_map_is_not_somebody_else_s() -> None:
    gone = Map.create(MapType.HASH, "gone", (4, 4), 1)
    gone.close()
    gone.close()
    with pytest.raises(ValueError, match="closed"):
        gone.get(b"aaaa")


def test_a_folder_that_is_no_bpf_file_system() -> None:
    assert not bpf.is_bpf_fs("/proc")
    assert not bpf.is_bpf_fs("/does/not/exist")
