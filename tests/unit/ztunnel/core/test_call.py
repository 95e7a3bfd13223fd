"""What ``POST /call`` may be asked for."""

from __future__ import annotations

import pytest

from ambient.api.address import HostPort
from ztunnel.core.call import Call


@pytest.mark.parametrize(
    ("to", "address"),
    [
        ("10.0.0.1:80", HostPort("10.0.0.1", 80)),
        ("[fd00::1]:65535", HostPort("fd00::1", 65535)),
        ("[::ffff:10.0.0.1]:80", HostPort("10.0.0.1", 80)),
    ],
)
def test_an_address_and_a_port(to, address):
    assert Call(to=to).address() == address


@pytest.mark.parametrize("to", ["", ":80", "web:80", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0",
                                "10.0.0.1:65536", "10.0.0.1:٣", "10.0.0.1:-1"])  # fmt: skip
def test_anything_else_is_refused_by_name(to):
    with pytest.raises(ValueError, match="is no address and port"):
        Call(to=to).address()
