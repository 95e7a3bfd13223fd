"""Properties of the codec: how bytes are cut changes nothing; no bytes break it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ambient.hbone.core import frames
from ambient.hbone.core.frames import PREFACE, Frame, frame
from tests.unit.ambient.hbone.core.wire import CONNECT_BLOCK, Side, connect_frame

IDS = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5])
FRAMES = st.one_of(
    st.builds(
        lambda n, flags, data: frame(Frame.DATA, flags, n, data),
        IDS,
        st.sampled_from([0, 0, 0, 1, 8, 9]),
        st.binary(max_size=300),
    ),
    st.builds(lambda n, flags: connect_frame(n, flags), IDS, st.sampled_from([4, 4, 5, 0])),
    st.builds(
        lambda kind, flags, n, data: frame(kind, flags, n, data),
        st.integers(0, 12),
        st.integers(0, 255),
        IDS,
        st.binary(max_size=40),
    ),
    st.builds(frames.window_update, IDS, st.integers(0, 2**31 - 1)),
    st.builds(frames.rst_stream, IDS, st.integers(0, 20)),
    st.builds(
        lambda key, value: frames.settings({key: value}),
        st.integers(1, 9),
        st.integers(0, 2**32 - 1),
    ),
    st.builds(
        lambda cut: (
            frame(Frame.HEADERS, 0, 1, CONNECT_BLOCK[:cut])
            + frame(Frame.CONTINUATION, 4, 1, CONNECT_BLOCK[cut:])
        ),
        st.integers(0, len(CONNECT_BLOCK)),
    ),
    st.binary(max_size=30),
)
HELLO = PREFACE + frames.settings({})
WIRE = st.lists(FRAMES, max_size=25).map(lambda parts: HELLO + b"".join(parts))


def outcome(pieces, *, client):
    """Everything the tunnel told and sent."""
    side = Side(client=client)
    if client:
        side.open()
        side.open()
    side.take()
    error = side.feed(*pieces)
    return side.log, side.take(), error and (type(error), str(error))


def cut(data, sizes):
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@settings(max_examples=150, deadline=None)
@given(wire=WIRE, sizes=st.lists(st.integers(0, 64), max_size=200), client=st.booleans())
def test_any_cut_of_the_bytes_gives_the_same_events(wire, sizes, client):
    if client:
        wire = wire.removeprefix(PREFACE)
    whole = outcome([wire], client=client)
    assert outcome(cut(wire, sizes), client=client) == whole
    assert outcome([wire[n : n + 1] for n in range(len(wire))], client=client) == whole


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=4096), hello=st.booleans(), client=st.booleans())
def test_random_bytes_end_in_events_or_in_our_error(raw, hello, client):
    prefix = HELLO if hello and not client else (frames.settings({}) if hello else b"")
    outcome([prefix + raw], client=client)  # anything else than PeerError would be raised


@settings(max_examples=200, deadline=None)
@given(block=st.binary(max_size=400))
def test_random_header_blocks_end_in_events_or_in_our_error(block):
    outcome([HELLO + frame(Frame.HEADERS, 4, 1, block)], client=False)
