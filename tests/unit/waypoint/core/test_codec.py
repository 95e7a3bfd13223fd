"""Which HTTP an endpoint is spoken to in."""

import pytest

from ambient.api.service import AppProtocol
from waypoint.core.codec import Codec, upstream_codec
from waypoint.core.connection_pool import DEFAULT, ConnectionPool

ONE, TWO = Codec.HTTP1, Codec.HTTP2
UPGRADE, KEEP = ConnectionPool(upgrade=True), ConnectionPool(upgrade=False)
CLIENT = ConnectionPool(use_client_protocol=True)


@pytest.mark.parametrize(
    ("declared", "pool", "for_http1", "for_http2"),
    [
        (AppProtocol.HTTP11, DEFAULT, ONE, ONE),
        (AppProtocol.HTTP2, DEFAULT, TWO, TWO),
        (AppProtocol.GRPC, DEFAULT, TWO, TWO),
        (AppProtocol.UNKNOWN, DEFAULT, ONE, TWO),
        (AppProtocol.HTTP11, UPGRADE, TWO, TWO),
        (AppProtocol.UNKNOWN, UPGRADE, TWO, TWO),
        (AppProtocol.HTTP11, KEEP, ONE, ONE),
        (AppProtocol.HTTP2, KEEP, TWO, TWO),
        (AppProtocol.HTTP11, CLIENT, ONE, TWO),
        (AppProtocol.HTTP2, CLIENT, ONE, TWO),
    ],
)
def test_the_codec(declared, pool, for_http1, for_http2):
    assert upstream_codec(declared, "1.1", pool) is for_http1
    assert upstream_codec(declared, "2", pool) is for_http2
