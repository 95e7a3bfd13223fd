"""Frames of a link in, TCP payloads out."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from ambient.api.address import HostPort
from ambientctl.local.capture import MARKER, RecordReader, Segment, encode, parse_frame


def frame(payload=b"GET /", source=(10, 244, 1, 2), protocol=6, padding=b""):
    tcp = struct.pack("!HHIIBBHHH", 4000, 9080, 1, 1, 5 << 4, 0x18, 100, 0, 0) + payload
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, protocol, 0)
    return b"\0" * 12 + b"\x08\x00" + ip + bytes(source) + bytes((10, 244, 2, 2)) + tcp + padding


def test_a_segment_is_read_with_both_ends():
    assert parse_frame(frame()) == Segment(
        HostPort("10.244.1.2", 4000), HostPort("10.244.2.2", 9080), b"GET /"
    )


def test_padding_of_short_frames_is_no_payload():
    assert parse_frame(frame(payload=b"", padding=b"\0" * 6)) is None


def test_other_traffic_is_left_out():
    assert parse_frame(frame(protocol=17)) is None
    assert parse_frame(frame(source=(172, 30, 0, 1))) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_segment_or_none(raw):
    parse_frame(raw)
    parse_frame(frame()[:24] + raw)


@given(st.lists(st.integers(1, 40), max_size=20))
def test_cutting_the_stream_changes_nothing(cuts):
    segment = Segment(HostPort("10.0.0.1", 1), HostPort("10.0.0.2", 2), b"x" * 50)
    stream, reader, found = MARKER + encode(segment) * 3 + MARKER, RecordReader(), []
    for cut in [*cuts, len(stream)]:
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert (found, reader.markers) == ([segment] * 3, 2)
