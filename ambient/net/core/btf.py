"""Where fields of the running kernel's structures are, by its own type information (BTF).

Offsets differ from kernel to kernel, so a program that reads a field which no helper function
offers has to be told. Format: Documentation/bpf/btf.rst; only what leads to an offset is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("=HBBIIIII")
_TYPE: Final = struct.Struct("=III")
_MEMBER: Final = struct.Struct("=III")
_STRUCT, _UNION = 4, 5
_KINDS: Final = 20
_MOST_NESTED: Final = 8
_WORDS_AFTER: Final = {1: 1, 3: 3, 14: 1, 17: 1}
"""Kinds (number, array, variable, tag of a declaration) that are followed by so many words."""
_WORDS_PER_ITEM: Final = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}
"""Kinds (struct, union, enumerations, prototype, section) that have so many words per item."""


class BtfError(Exception):
    """Not the type information of a kernel that has these fields."""


class _Type(NamedTuple):
    kind: int
    items: int
    at: int
    """Where its items begin."""


class _Types:
    """The blob, and where each type is in it."""

    def __init__(self, blob: bytes) -> None:
        magic, _, _, header, types, length, strings, _ = _HEADER.unpack_from(blob)
        if magic != _MAGIC:
            raise BtfError("this is no type information")
        self.blob = blob
        self._strings = header + strings
        self._types = [_Type(0, 0, 0)]  # number 0 is void
        self.structs: dict[str, _Type] = {}
        at, end = header + types, header + types + length
        while at < end:
            at = self._add(at)

    def _add(self, at: int) -> int:
        name: int
        info: int
        name, info, _ = _TYPE.unpack_from(self.blob, at)
        kind, items, after = info >> 24 & 0x1F, info & 0xFFFF, at + _TYPE.size
        if not 0 < kind < _KINDS:
            raise BtfError(f"types of kind {kind} are not known")
        found = _Type(kind, items, after)
        self._types.append(found)
        if kind == _STRUCT and name:
            self.structs.setdefault(self._text(name), found)
        words_after = _WORDS_AFTER.get(kind, 0) + _WORDS_PER_ITEM.get(kind, 0) * items
        return after + 4 * words_after

    def _text(self, offset: int) -> str:
        begin = self._strings + offset
        return self.blob[begin : self.blob.index(b"\0", begin)].decode(errors="replace")

    def member(self, owner: _Type, name: str, depth: int = 0) -> tuple[int, _Type] | None:
        """Offset in bytes and type; members of unnamed parts count as the owner's own."""
        if depth > _MOST_NESTED:
            raise BtfError("the type information nests without end")
        for index in range(owner.items):
            label, number, bits = _MEMBER.unpack_from(self.blob, owner.at + index * _MEMBER.size)
            offset = (bits & 0xFFFFFF) // 8  # the rest is a bit field's width, where it is one
            found = self._types[number] if number < len(self._types) else self._types[0]
            if label and self._text(label) == name:
                return offset, found
            if not label and found.kind in (_STRUCT, _UNION):
                inner = self.member(found, name, depth + 1)
                if inner is not None:
                    return offset + inner[0], inner[1]
        return None


def offsets(blob: bytes, fields: Iterable[str]) -> Mapping[str, int]:
    """Bytes from the beginning of a structure, for each ``structure.field`` or ``….part.field``.

    Raises BtfError that names the field which is not there.
    """
    try:
        types = _Types(blob)
        return {field: _offset(types, field) for field in fields}
    except (struct.error, ValueError):
        raise BtfError("the type information is cut off") from None


def _offset(types: _Types, field: str) -> int:
    name, *path = field.split(".")
    owner, total = types.structs.get(name), 0
    for part in path:
        found = types.member(owner, part) if owner is not None else None
        if found is None:
            raise BtfError(f"this kernel has no {field}")
        total, owner = total + found[0], found[1]
    return total


def words(count: int) -> bytes:
    """Type information of our own: type 1 is a 32-bit number, type 2 an array of ``count``."""
    names = b"\0u32\0"
    number = struct.pack("=IIII", 1, 1 << 24, 4, 32)  # BTF_KIND_INT, its size, its bits
    array = struct.pack("=IIIIII", 0, 3 << 24, 0, 1, 1, count)  # BTF_KIND_ARRAY
    types = number + array
    header = _HEADER.pack(_MAGIC, 1, 0, _HEADER.size, 0, len(types), len(types), len(names))
    return header + types + names
