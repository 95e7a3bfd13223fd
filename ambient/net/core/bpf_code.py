"""BPF instructions as bytes: maps and constants are put into compiled code when it is loaded.

In a source ``PLACE(name)`` stands for a map or a number that is not known when it is compiled; the
compiler leaves the place's own number in a 16-byte load instruction, which ``bind`` replaces.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

_INSTRUCTION: Final = struct.Struct("=BBhi")  # struct bpf_insn: code, registers, offset, immediate
_LOAD_64: Final = 0x18  # BPF_LD | BPF_IMM | BPF_DW, two instructions long
_MAP: Final = 1  # BPF_PSEUDO_MAP_FD in the source register
FIRST_PLACE: Final = 0x7A000000
"""Numbers from here on are places; a source has no such constants of its own."""


class MapFd(NamedTuple):
    """A map by its descriptor."""

    fd: int


class Constant(NamedTuple):
    """An unsigned number of 64 bits."""

    value: int


Binding = MapFd | Constant


def places(names: tuple[str, ...]) -> dict[str, int]:
    """The numbers that stand for these names while a source is compiled."""
    return {name: FIRST_PLACE + index for index, name in enumerate(names)}


def bind(code: bytes, bindings: Mapping[int, Binding]) -> bytes:
    """Put maps and constants where their places are.

    Raises ValueError for a place without a binding, and for what is no code.
    """
    if len(code) % _INSTRUCTION.size:
        raise ValueError("the code does not consist of whole instructions")
    bound = bytearray(code)
    at = 0
    while at < len(code):
        operation, registers, _, immediate = _INSTRUCTION.unpack_from(code, at)
        if operation != _LOAD_64:
            at += _INSTRUCTION.size
            continue
        if at + 2 * _INSTRUCTION.size > len(code):
            raise ValueError("the code ends inside an instruction")
        if immediate >= FIRST_PLACE:
            if immediate not in bindings:
                raise ValueError(f"nothing is known for place {immediate - FIRST_PLACE}")
            _put(bound, at, registers & 0x0F, bindings[immediate])
        at += 2 * _INSTRUCTION.size
    return bytes(bound)


def _put(code: bytearray, at: int, register: int, binding: Binding) -> None:
    source, value = (_MAP, binding.fd) if isinstance(binding, MapFd) else (0, binding.value)
    low, high = struct.unpack("=ii", struct.pack("=Q", value))
    _INSTRUCTION.pack_into(code, at, _LOAD_64, register | source << 4, 0, low)
    _INSTRUCTION.pack_into(code, at + _INSTRUCTION.size, 0, 0, 0, high)
