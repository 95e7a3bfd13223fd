"""HPACK blocks: the hpack library writes them, and is the judge of what is in them."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.hbone.core.errors import CompressionError, FloodError
from waypoint.core.field_decoder import FieldDecoder

NAMES = st.sampled_from([":path", "accept", "x-a", "x-b", "content-type", "authorization"])
VALUES = st.text(st.characters(max_codepoint=255), max_size=60)
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=12)


@given(blocks=st.lists(LISTS, max_size=6), huffman=st.booleans())
def test_what_the_library_writes_is_read(blocks, huffman):
    encoder, decoder = hpack.Encoder(), FieldDecoder(1 << 20)
    for fields in blocks:
        raw = [(n.encode(), v.encode("latin-1")) for n, v in fields]
        assert decoder.decode(encoder.encode(raw, huffman=huffman)) == fields


@given(lists=st.lists(LISTS, max_size=3), order=st.lists(st.integers(0, 2), max_size=12))
def test_blocks_that_come_again_mean_what_the_table_says_then(lists, order):
    encoder, decoder = hpack.Encoder(), FieldDecoder(1 << 20)
    for number in order:
        fields = lists[number] if number < len(lists) else []
        raw = [(n.encode(), v.encode("latin-1")) for n, v in fields]
        assert decoder.decode(encoder.encode(raw)) == fields


def test_a_block_is_read_anew_when_the_table_has_changed():
    decoder = FieldDecoder(1 << 20)
    newest = bytes([0x80 | 62])
    for value in ("a", "b"):
        decoder.decode(bytes([0x40, 1]) + b"x" + bytes([1]) + value.encode())
        assert [decoder.decode(newest) for _ in range(2)] == [[("x", value)]] * 2


@given(blocks=st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_are_read_as_the_library_reads_them(blocks):
    ours, theirs = FieldDecoder(1 << 20), hpack.Decoder(max_header_list_size=1 << 20)
    for block in blocks:
        try:
            expected = theirs.decode(block, raw=True)
        except hpack.HPACKError:
            expected = None
        try:
            found = ours.decode(block)
        except (CompressionError, FloodError):
            return  # the connection ends; we may be stricter about sizes of the table
        assert expected is not None
        assert found == [(n.decode("latin-1"), v.decode("latin-1")) for n, v in expected]


def test_the_table_is_bounded_and_shrinks():
    encoder, decoder = hpack.Encoder(), FieldDecoder(1 << 20)
    for number in range(300):
        decoder.decode(encoder.encode([("x-a", f"{number:0100d}")]))
    assert decoder._size <= 4096
    encoder.header_table_size = 0
    assert decoder.decode(encoder.encode([("x-a", "b")])) == [("x-a", "b")]
    assert decoder._size == 0


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff\x7f",
        b"\xbe",
        b"\x40",
        b"\x00\x01",
        b"\x00\x05ab",
        b"\x3f\xe2\x1f",
        b"\x82\x20",
        b"\x40\x81\xff\x00",
        b"\x0f",
    ],
)
def test_broken_blocks(block):
    with pytest.raises(CompressionError):
        FieldDecoder(1 << 20).decode(block)


def test_a_small_block_cannot_become_a_large_list():
    block = hpack.Encoder().encode([("x-a", "b" * 4000)] * 100)
    assert len(block) < 4000
    with pytest.raises(FloodError):
        FieldDecoder(100_000).decode(block)


def literal(name: str, value: str, form: int) -> bytes:
    return bytes([form, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


REMEMBERED, NOT_REMEMBERED = 0x40, 0x00
PIECES = st.one_of(
    st.builds(
        literal,
        st.sampled_from("ab"),
        st.sampled_from(["", "1", "2" * 100, "3" * 120]),
        st.sampled_from([REMEMBERED, NOT_REMEMBERED]),
    ),
    st.sampled_from([bytes([0x80 | index]) for index in (2, 8, 62, 63, 70)]),  # 62: the newest
    st.just(bytes([0x20])) | st.just(bytes([0x3F, 0xE1, 0x1F])),  # table sizes 0 and 4096
)


@given(
    known=st.lists(st.lists(PIECES, max_size=3).map(b"".join), min_size=1, max_size=5),
    order=st.lists(st.integers(0, 4), max_size=60),
)
def test_recalled_blocks_leave_the_table_as_read_ones_do(known, order):
    ours, theirs = FieldDecoder(1 << 20), hpack.Decoder(max_header_list_size=1 << 20)
    for number in order:
        block = known[number % len(known)]
        try:
            found = ours.decode(block)
        except CompressionError:
            return  # the connection ends
        expected = theirs.decode(block, raw=True)
        assert found == [(n.decode("latin-1"), v.decode("latin-1")) for n, v in expected]
    left = theirs.header_table.dynamic_entries
    for index, (name, value) in enumerate(left, 62):
        assert ours.decode(bytes([0x80 | index])) == [(name.decode(), value.decode())]
    with pytest.raises(CompressionError):
        ours.decode(bytes([0x80 | 62 + len(left)]))


def test_what_recalled_blocks_add_is_bounded_and_in_order():
    ours, theirs = FieldDecoder(1 << 20), hpack.Decoder(max_header_list_size=1 << 20)
    blocks = [literal("a", str(number), REMEMBERED) for number in range(3)]
    for number in range(1000):
        ours.decode(blocks[number % 3])
        theirs.decode(blocks[number % 3])
    newest = list(theirs.header_table.dynamic_entries)[:40]
    assert [ours.decode(bytes([0x80 | at]))[0][1] for at in range(62, 102)] == [
        value.decode() for _, value in newest
    ]
