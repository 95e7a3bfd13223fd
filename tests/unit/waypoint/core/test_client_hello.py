"""Server names in what real clients send, in pieces, and in anything else."""

from __future__ import annotations

import functools
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypoint.core.client_hello import server_name


@functools.cache
def hello(name):
    """The first flight of the standard library's client."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_name():
    assert server_name(hello("API.example.com")) == "api.example.com"
    assert server_name(hello(None)) == ""


def test_every_beginning_asks_for_more():
    whole = hello("api.example.com")
    assert {server_name(whole[:size]) for size in range(len(whole))} == {None}
    assert server_name(whole + b"more") == "api.example.com"


def test_a_message_over_several_records():
    whole = hello("api.example.com")
    body = whole[5:]
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (body[i : i + 50] for i in range(0, len(body), 50))
    )
    assert server_name(records) == "api.example.com"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x02", b"\x15\x03\x01\x00\x02\x01\x00", b"SSH-2.0"]
)
def test_what_is_not_tls(data):
    assert server_name(data) == ""


@given(st.binary(max_size=200))
def test_any_bytes_are_harmless(data):
    found = server_name(b"\x16\x03\x01" + data)
    assert found is None or isinstance(found, str)


@given(st.data())
def test_any_change_is_harmless(data):
    whole = bytearray(hello("api.example.com"))
    for _ in range(3):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found = server_name(bytes(whole))
    assert found is None or isinstance(found, str)
