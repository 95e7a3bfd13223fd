"""Offsets from type information: against ours, the kernel's own, and rubbish."""

import ctypes
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.net.core.btf import BtfError, offsets, words

KERNEL = Path("/sys/kernel/btf/vmlinux")


def blob(*types: bytes, names: bytes) -> bytes:
    data = b"".join(types)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), len(data), len(names))
    return header + data + names


def made() -> bytes:
    """``struct outer { int a; union { int b; struct part c; }; } ; struct part { int d, e; }``"""
    names = b"\0int\0outer\0a\0b\0c\0part\0d\0e\0"

    def at(name: bytes) -> int:
        return names.index(b"\0" + name + b"\0") + 1

    number = struct.pack("=IIII", at(b"int"), 1 << 24, 4, 32)
    part = struct.pack("=III", at(b"part"), 4 << 24 | 2, 8)
    part += struct.pack("=IIIIII", at(b"d"), 1, 0, at(b"e"), 1, 32)
    union = struct.pack("=III", 0, 5 << 24 | 2, 8)
    union += struct.pack("=IIIIII", at(b"b"), 1, 0, at(b"c"), 2, 0)
    outer = struct.pack("=III", at(b"outer"), 4 << 24 | 2, 12)
    outer += struct.pack("=IIIIII", at(b"a"), 1, 0, 0, 3, 32)
    return blob(number, part, union, outer, names=names)


@pytest.mark.parametrize(
    ("field", "offset"), [("outer.a", 0), ("outer.b", 4), ("outer.c.e", 8), ("part.e", 4)]
)
def test_fields_of_parts_and_of_unnamed_parts(field: str, offset: int) -> None:
    assert offsets(made(), [field]) == {field: offset}


@pytest.mark.parametrize("field", ["outer.z", "nobody.a", "outer.a.d"])
def test_what_is_not_there_is_named(field: str) -> None:
    with pytest.raises(BtfError, match=field):
        offsets(made(), [field])


def test_our_own_types_are_types() -> None:
    with pytest.raises(BtfError, match=r"no a\.b"):
        offsets(words(14), ["a.b"])


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_types_or_an_error(tail: bytes, keep: int) -> None:
    for data in (tail, made()[:keep] + tail):
        try:
            found = offsets(data, ["outer.c.e"])
        except BtfError:
            continue
        assert set(found) == {"outer.c.e"}


@pytest.mark.skipif(not KERNEL.exists(), reason="the kernel has no type information of its own")
def test_the_running_kernel() -> None:
    found = offsets(KERNEL.read_bytes(), ["list_head.next", "list_head.prev"])
    pointer = ctypes.sizeof(ctypes.c_void_p)
    assert found == {"list_head.next": 0, "list_head.prev": pointer}
