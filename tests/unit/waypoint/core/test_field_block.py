"""HPACK blocks that an independent decoder reads back."""

import hpack
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.field_block import encode

NAMES = st.text("abcdefghij-:_", min_size=1, max_size=200)
VALUES = st.text(st.characters(max_codepoint=255), max_size=400)
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
