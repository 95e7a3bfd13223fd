"""ZDS bytes: the ones istio's agent and ztunnel exchange, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.net.core.wire import (
    MAX_MESSAGE_BYTES,
    Ack,
    Add,
    Del,
    Hello,
    Keep,
    SnapshotSent,
    WireError,
    decode_ack,
    decode_hello,
    decode_request,
    encode,
)


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (Hello(), b"\x08\x01"),
        (Ack(), b"\x0a\x00"),
        (Ack("no"), b"\x0a\x04\x0a\x02no"),
        (SnapshotSent(), b"\x1a\x00"),
        (Del("u"), b"\x12\x03\x12\x01u"),  # field number 2, not 1
        (Keep("u"), b"\x2a\x03\x0a\x01u"),
        (Add("u", "n", "s", "a"), b"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01a"),
    ],
)
def test_bytes_are_istios(message, wire):
    assert encode(message) == wire


@pytest.mark.parametrize(
    "request_", [Add("u", "n", "s", "a"), Add("u", "", "", ""), Keep("u"), Del("u"), SnapshotSent()]
)
def test_requests_survive_the_wire(request_):
    assert decode_request(encode(request_)) == request_


def test_answers_survive_the_wire():
    assert decode_hello(encode(Hello())) == Hello(1)
    assert decode_ack(encode(Ack("why"))) == Ack("why")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "without a payload"),
        (b"\x0a\x03\x0a\x01u", "add without workload_info"),
        (b"\x12\x00", "del without a uid"),
        (b"\x2a\x00", "keep without a uid"),
        (b"\xff", "not a WorkloadRequest"),
        (b"\x0a" * (MAX_MESSAGE_BYTES + 1), "exceeds"),
    ],
)
def test_a_bad_request_is_refused_by_name(data, why):
    with pytest.raises(WireError, match=why):
        decode_request(data)


def test_a_response_without_an_ack_is_refused():
    with pytest.raises(WireError, match="without an ack"):
        decode_ack(b"")


def test_a_long_error_is_cut_to_fit_one_packet():
    assert len(encode(Ack("ä" * 2000))) <= MAX_MESSAGE_BYTES


def test_a_message_too_long_for_one_packet_is_refused():
    with pytest.raises(WireError, match="exceeds"):
        encode(Add("u" * 2000, "n", "s", "a"))


@given(st.binary(max_size=64))
def test_any_bytes_give_a_request_or_a_wire_error(data):
    try:
        request = decode_request(data)
    except WireError:
        return
    assert decode_request(encode(request)) == request
