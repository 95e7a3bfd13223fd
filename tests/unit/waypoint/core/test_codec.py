"""Which HTTP an endpoint is spoken to in."""

import pytest

from ambient.api.service import AppProtocol
from waypoint.core.codec import Codec, CodecPolicy, upstream_codec

ONE, TWO = Codec.HTTP1, Codec.HTTP2


@pytest.mark.parametrize(
    ("declared", "policy", "for_http1", "for_http2"),
    [
        (AppProtocol.HTTP11, CodecPolicy.DECLARED, ONE, ONE),
        (AppProtocol.HTTP2, CodecPolicy.DECLARED, TWO, TWO),
        (AppProtocol.GRPC, CodecPolicy.DECLARED, TWO, TWO),
        (AppProtocol.UNKNOWN, CodecPolicy.DECLARED, ONE, TWO),
        (AppProtocol.HTTP11, CodecPolicy.UPGRADE, TWO, TWO),
        (AppProtocol.UNKNOWN, CodecPolicy.UPGRADE, TWO, TWO),
        (AppProtocol.HTTP11, CodecPolicy.CLIENT, ONE, TWO),
        (AppProtocol.HTTP2, CodecPolicy.CLIENT, ONE, TWO),
    ],
)
def test_the_codec(declared, policy, for_http1, for_http2):
    assert upstream_codec(declared, "1.1", policy) is for_http1
    assert upstream_codec(declared, "2", policy) is for_http2
