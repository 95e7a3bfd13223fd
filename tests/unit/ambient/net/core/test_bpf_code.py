from __future__ import annotations

import struct

import pytest

from ambient.net.core.bpf_code import FIRST_PLACE, Constant, MapFd, bind, places

EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)


def load(number: int, register: int = 1) -> bytes:
    """What the compiler makes of ``PLACE(name)``."""
    return struct.pack("=BBhiBBhi", 0x18, register | 1 << 4, 0, number, 0, 0, 0, 0)


def test_names_get_numbers_of_their_own() -> None:
    assert places(("A", "B")) == {"A": FIRST_PLACE, "B": FIRST_PLACE + 1}


def test_a_map_is_put_in_by_its_descriptor() -> None:
    bound = bind(load(FIRST_PLACE) + EXIT, {FIRST_PLACE: MapFd(7)})
    assert bound == load(7) + EXIT


def test_a_constant_may_use_all_of_its_64_bits() -> None:
    bound = bind(load(FIRST_PLACE, register=2), {FIRST_PLACE: Constant(0xFEDCBA9876543210)})
    code, registers, _, low, _, _, _, high = struct.unpack("=BBhIBBhI", bound)
    assert (code, registers) == (0x18, 2)  # no pseudo source: a plain number
    assert high << 32 | low == 0xFEDCBA9876543210


def test_other_instructions_and_other_constants_stay() -> None:
    code = EXIT + load(3) + EXIT
    assert bind(code, {}) == code


def test_the_second_half_of_a_load_is_not_taken_for_an_instruction() -> None:
    code = struct.pack("=BBhiBBhi", 0x18, 1, 0, 5, 0x18, 0, 0, FIRST_PLACE)
    assert bind(code, {}) == code


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (load(FIRST_PLACE + 4), "nothing is known for place 4"),
        (load(FIRST_PLACE)[:8], "ends inside an instruction"),
        (EXIT[:5], "whole instructions"),
    ],
)
def test_what_cannot_be_bound_is_named(code: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bind(code, {})
