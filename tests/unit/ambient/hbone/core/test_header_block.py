"""Whatever is sent, an independent decoder reads the same."""

import hpack
from hypothesis import given
from hypothesis import strategies as st

from ambient.hbone.core.header_block import PER_CONNECTION_HEADERS, encode

NAMES = st.one_of(
    st.sampled_from([":authority", ":method", ":status", "baggage", *PER_CONNECTION_HEADERS]),
    st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=200),
)
VALUES = st.text(st.characters(max_codepoint=255), max_size=20_000)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_an_independent_decoder_reads_the_same(fields):
    decoder = hpack.Decoder(max_header_list_size=10**6)
    read = decoder.decode(encode(fields), raw=True)
    assert [(n.decode("latin-1"), v.decode("latin-1")) for n, v in read] == fields


def test_the_edges_of_the_length_prefix():
    for size in (0, 126, 127, 128, 127 + 127, 127 + 128, 127 + 16_384):
        value = "x" * size
        ((_, read),) = hpack.Decoder().decode(encode([("baggage", value)]), raw=True)
        assert len(read) == size


def test_what_is_new_each_time_is_marked_for_intermediaries():
    read = hpack.Decoder().decode(encode([("traceparent", "00-1-2-00"), ("baggage", "a=b")]))
    assert [field.indexable for field in read] == [False, True]
