"""PROXY protocol headers, byte by byte, and read back by an independent reader."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity
from ambient.net.core.proxy_header import encode, encode_v1

WEB = Identity("cluster.local", "shop", "web")


def read(data):
    """Source, destination, TLVs, as the specification says (version 2)."""
    assert data[:12] == b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
    command, family, length = struct.unpack("!BBH", data[12:16])
    assert command == 0x21
    body = data[16:]
    assert len(body) == length
    ends = (None, None)
    size = {0x11: 4, 0x21: 16, 0x00: 0}[family]
    if size:
        ports = struct.unpack("!HH", body[2 * size : 2 * size + 4])
        hosts = (ip_address(body[:size]), ip_address(body[size : 2 * size]))
        ends = tuple(HostPort(str(h), p) for h, p in zip(hosts, ports, strict=True))
        body = body[2 * size + 4 :]
    tlvs = {}
    while body:
        kind, size = struct.unpack("!BH", body[:3])
        tlvs[kind], body = body[3 : 3 + size], body[3 + size :]
    return *ends, tlvs


def test_the_bytes_of_a_small_header():
    header = encode(HostPort("10.0.0.1", 4000), HostPort("10.96.0.2", 80), None)
    assert header.hex() == "0d0a0d0a000d0a515549540a2111000c0a0000010a6000020fa00050"


def test_the_line_of_version_1():
    four, six = HostPort("10.0.0.1", 4000), HostPort("fd00::2", 80)
    assert encode_v1(four, HostPort("10.96.0.2", 80)) == (
        b"PROXY TCP4 10.0.0.1 10.96.0.2 4000 80\r\n"
    )
    assert encode_v1(HostPort("fd00::1", 1), six) == b"PROXY TCP6 fd00::1 fd00::2 1 80\r\n"
    assert encode_v1(four, six) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(
    ("source", "destination"),
    [("10.0.0.1", "10.96.0.2"), ("fd00::1", "fd00::2")],
)
def test_both_ends_and_the_identity(source, destination):
    one, two = HostPort(source, 4000), HostPort(destination, 80)
    tlvs = {0xD0: b"spiffe://cluster.local/ns/shop/sa/web"}
    assert read(encode(one, two, WEB)) == (one, two, tlvs)


def test_ends_of_two_families_cannot_be_named():
    header = encode(HostPort("10.0.0.1", 4000), HostPort("fd00::2", 80), WEB)
    assert read(header)[:2] == (None, None)
    assert 0xD0 in read(header)[2]


PORTS = st.integers(1, 65535)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=200)


@given(st.ip_addresses(), PORTS, st.ip_addresses(), PORTS, NAMES)
def test_whatever_goes_in_comes_out(one, one_port, two, two_port, name):
    identity = Identity("cluster.local", name, name)
    source, destination, tlvs = read(
        encode(HostPort(str(one), one_port), HostPort(str(two), two_port), identity)
    )
    assert tlvs == {0xD0: str(identity).encode()}
    if source is not None:
        assert (source.port, destination.port) == (one_port, two_port)
