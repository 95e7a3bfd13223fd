"""PROXY headers and CONNECT in front of an endpoint's bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.api.address import HostPort
from waypoint.core.objects import UnusableError
from waypoint.core.opening import (
    Ends,
    OpeningRefusedError,
    ProxyTunnel,
    check_answer,
    connect_request,
    header,
    post_request,
    read_proxy_protocol,
    read_tunnel,
)

ENDS = Ends(HostPort("10.0.0.1", 4000), HostPort("10.96.0.2", 80))


def test_headers():
    assert header(1, ENDS) == b"PROXY TCP4 10.0.0.1 10.96.0.2 4000 80\r\n"
    assert header(2, ENDS)[:12] == b"\r\n\r\n\0\r\nQUIT\n"
    assert header(1, None) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(("raw", "version"), [(None, 0), ({}, 1), ({"version": "V2"}, 2)])
def test_versions(raw, version):
    assert read_proxy_protocol(raw) == version


def test_a_tunnel():
    assert read_tunnel(None) is None
    tunnel = read_tunnel({"targetHost": "api.example.com", "targetPort": 443})
    assert tunnel == ProxyTunnel(HostPort("api.example.com", 443))
    by_post = read_tunnel({"targetHost": "a", "targetPort": 443, "protocol": "POST"})
    assert by_post == ProxyTunnel(HostPort("a", 443), post=True)
    assert post_request(by_post).startswith(b"POST / HTTP/1.1\r\nhost: a:443\r\n")
    assert connect_request(tunnel) == (
        b"CONNECT api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\n\r\n"
    )


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"targetHost": "a"},
        {"targetHost": "a\r\nx: y", "targetPort": 1},
        {"targetHost": "a", "targetPort": 70_000},
        {"targetHost": "a", "targetPort": 1, "protocol": "PUT"},
    ],
)
def test_tunnels_that_cannot_be(raw):
    with pytest.raises(UnusableError):
        read_tunnel(raw)


def test_answers():
    check_answer(b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n")
    with pytest.raises(OpeningRefusedError, match="answers CONNECT with 403 Forbidden"):
        check_answer(b"HTTP/1.1 403 Forbidden\r\n\r\n")


@given(st.binary(max_size=100))
def test_any_other_answer_is_refused_with_a_reason(head):
    if not head.startswith(b"HTTP/1."):
        with pytest.raises(OpeningRefusedError, match=r"no HTTP/1\.1"):
            check_answer(head)
