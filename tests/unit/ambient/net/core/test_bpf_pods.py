"""The bytes are those of the structs in redirect.c; test_bpf_redirect proves it with the kernel."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.api.address import HostPort
from ambient.net.core import bpf_pods
from ambient.net.core.bpf_pods import Flag, PodValue
from ambient.net.core.rules import Options


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (Options(), Flag.OUTBOUND | Flag.INBOUND | Flag.IPV6 | Flag.REPLIES),
        (Options(ipv6=False), Flag.OUTBOUND | Flag.INBOUND | Flag.REPLIES),
        (Options(inbound=False), Flag.OUTBOUND | Flag.IPV6 | Flag.REPLIES),
        (Options(ipv6=False, dns=True), Flag(23)),
    ],
)
def test_what_is_captured_follows_the_options(options: Options, flags: Flag) -> None:
    assert bpf_pods.enrolled(options) == flags


def test_a_draining_pod_is_captured_no_more_but_its_replies_still_find_the_tunnel() -> None:
    assert Flag.REPLIES in bpf_pods.DRAINING
    assert not bpf_pods.DRAINING & (Flag.OUTBOUND | Flag.INBOUND | Flag.DNS)
    assert not bpf_pods.ADMITTED


@given(
    st.integers(0, 31),
    st.none() | st.ip_addresses(v=4).filter(lambda ip: int(ip) != 0),
    st.none() | st.ip_addresses(v=6).filter(lambda ip: int(ip) != 0 and ip.ipv4_mapped is None),
)
def test_a_pod_is_read_as_it_was_written(
    flags: int, ipv4: IPv4Address | None, ipv6: IPv6Address | None
) -> None:
    value = PodValue(Flag(flags), ipv4, ipv6)
    data = value.encode()
    assert len(data) == 36
    assert PodValue.decode(data) == value


def test_a_pod_speaks_from_its_own_addresses() -> None:
    own = [
        ip_network(text) for text in ("127.0.0.0/8", "10.1.1.7/32", "fe80::1/128", "fd00::7/128")
    ]
    assert bpf_pods.sources([], own) == (ip_address("10.1.1.7"), ip_address("fd00::7"))
    told = [ip_address("10.1.1.8"), ip_address("fd00::8")]
    assert bpf_pods.sources(told, own) == tuple(told)
    assert bpf_pods.sources([], [ip_network("127.0.0.1/32"), ip_network("::1/128")]) == (None, None)


def test_prefixes_of_both_versions_are_128_bits_behind_the_cookie() -> None:
    four = bpf_pods.own_key(7, ip_network("10.0.0.0/8"))
    six = bpf_pods.own_key(7, ip_network("fd00::/8"))
    assert int.from_bytes(four[:4], "little") == 64 + 96 + 8
    assert int.from_bytes(six[:4], "little") == 64 + 8
    assert four[12:] == bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 0])
    assert bpf_pods.owner_of(four) == bpf_pods.owner_of(six) == 7
    assert bpf_pods.cookie_of(bpf_pods.pod_key(1 << 40)) == 1 << 40


def test_a_flow_is_the_client_s_end_of_it() -> None:
    key = bpf_pods.flow_key(7, 17, HostPort("10.1.1.7", 40000))
    assert len(key) == 32
    assert key != bpf_pods.flow_key(8, 17, HostPort("10.1.1.7", 40000))
    assert bpf_pods.flow_key(7, 17, HostPort("::ffff:10.1.1.7", 40000)) == key
    with pytest.raises(ValueError, match="somewhere"):
        bpf_pods.flow_key(7, 17, HostPort("somewhere", 1))


@pytest.mark.parametrize("host", ["10.96.0.10", "fd00::53"])
def test_where_it_was_going(host: str) -> None:
    packed = bpf_pods.flow_key(0, 0, HostPort(host, 53))[8:28]
    assert bpf_pods.original(packed) == HostPort(host, 53)
