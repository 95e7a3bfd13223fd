"""SOCKS 5 byte by byte, from whatever a client may send."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztunnel.core.socks5 import Handshake, Reply, SocksError, reply

GREETING = b"\x05\x01\x00"


def talk(data):
    """The handshake after these bytes, and everything that was answered."""
    handshake, answers = Handshake(), b""
    while handshake.needs and len(data) >= handshake.needs:
        chunk, data = data[: handshake.needs], data[handshake.needs :]
        answers += handshake.feed(chunk)
    return handshake, answers, data


def request(kind, address, port=80, command=1):
    return struct.pack("!BBBB", 5, command, 0, kind) + address + struct.pack("!H", port)


def name(text):
    return request(3, bytes([len(text)]) + text)


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        (request(1, ip_address("10.0.0.2").packed), "10.0.0.2:80"),
        (request(4, ip_address("fd00::2").packed, 443), "[fd00::2]:443"),
        (request(4, ip_address("::ffff:10.0.0.2").packed), "10.0.0.2:80"),
        (name(b"API.Shop."), "api.shop:80"),
        (name(b"10.0.0.2"), "10.0.0.2:80"),
    ],
)
def test_a_target(asked, target):
    handshake, answers, rest = talk(GREETING + asked + b"early bytes")
    assert str(handshake.target) == target
    assert answers == b"\x05\x00"
    assert rest == b"early bytes"  # they belong to the application


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x04\x01", b""),
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x02\x01\x02", b"\x05\xff"),
        (GREETING + request(1, bytes(4), command=2), reply(Reply.COMMAND_NOT_SUPPORTED)),
        (GREETING + request(1, bytes(4), command=3), reply(Reply.COMMAND_NOT_SUPPORTED)),
        (GREETING + request(2, bytes(4)), reply(Reply.ADDRESS_NOT_SUPPORTED)),
        (GREETING + request(1, bytes(4), port=0), reply(Reply.FAILED)),
        (GREETING + name(b""), reply(Reply.FAILED)),
        (GREETING + name(b"a b"), reply(Reply.FAILED)),
        (GREETING + name(b"."), reply(Reply.FAILED)),
        (GREETING + name(b"caf\xe9"), reply(Reply.FAILED)),
        (GREETING + b"\x04\x01\x00\x01", reply(Reply.FAILED)),
    ],
)
def test_what_is_refused_is_told_why(data, answer):
    with pytest.raises(SocksError) as refused:
        talk(data)
    assert refused.value.answer == answer
    assert str(refused.value)


def test_an_answer_has_the_length_that_clients_read():
    assert reply(Reply.REFUSED) == bytes.fromhex("05050001000000000000")


def test_a_chunk_of_another_size_is_the_callers_mistake():
    with pytest.raises(ValueError, match="3 bytes where 2"):
        Handshake().feed(b"\x05\x01\x00")


@given(st.binary(max_size=300))
def test_no_bytes_do_any_harm(data):
    try:
        handshake, answers, _ = talk(data)
    except SocksError:
        return
    assert handshake.needs <= 255 + 2
    assert answers in (b"", b"\x05\x00")
    if handshake.target is not None:
        assert handshake.target.port
        assert handshake.target.host


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_address_survives(ip, port):
    handshake, _, rest = talk(GREETING + request(1 if ip.version == 4 else 4, ip.packed, port))
    assert handshake.target.port == port
    assert rest == b""
    assert handshake.target.ip == (getattr(ip, "ipv4_mapped", None) or ip)
