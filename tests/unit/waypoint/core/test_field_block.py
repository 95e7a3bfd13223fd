"""HPACK blocks that an independent decoder reads back."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.field_block import BAD_VALUE, UnsendableError, encode

NAMES = st.text("abcdefghij-_", min_size=1, max_size=200)
TEXT = st.text(st.characters(max_codepoint=255), max_size=400)
VALUES = TEXT.filter(lambda text: BAD_VALUE.search(text) is None)
KNOWN = st.sampled_from(
    [(":method", "GET"), (":status", "200"), ("accept-encoding", "gzip, deflate")]
)


@given(st.lists(KNOWN | st.tuples(NAMES, VALUES), max_size=20))
def test_a_decoder_reads_what_was_written(fields):
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    decoded = decoder.decode(encode(fields), raw=True)
    assert [(n.decode("latin-1"), v.decode("latin-1")) for n, v in decoded] == fields
    assert not decoder.header_table.dynamic_entries


def test_static_fields_are_one_byte():
    assert encode([(":method", "GET"), (":scheme", "http"), (":status", "200")]) == b"\x82\x86\x88"


def test_secrets_are_never_indexed():
    decoded = hpack.Decoder().decode(encode([("authorization", "x"), ("accept", "y")]), raw=True)
    assert [field.indexable for field in decoded] == [False, True]


@pytest.mark.parametrize(
    "field",
    [
        ("a", "1\r\nb: 2"),
        ("a", "\0"),
        ("a", " 1"),
        ("a", "1\t"),
        ("a", "\u20ac"),
        ("a b", "1"),
        ("A", "1"),
    ],
)
def test_what_http_forbids_is_refused_each_time(field):
    for _ in range(2):
        with pytest.raises(UnsendableError):
            encode([(":status", "200"), field])
