"""Which version of HTTP an endpoint is spoken to in."""

from __future__ import annotations

from enum import Enum

from ambient.api.service import AppProtocol
from waypoint.core.connection_pool import DEFAULT, ConnectionPool


class Codec(Enum):
    """A version of HTTP on a connection."""

    HTTP1 = "HTTP/1.1"
    HTTP2 = "HTTP/2"


def upstream_codec(declared: AppProtocol, client: str, pool: ConnectionPool = DEFAULT) -> Codec:
    """The codec for a port. ``client`` is the version of the request (``"1.1"``, ``"2"``).

    As istiod configures Envoy: ``useClientProtocol`` and ``h2UpgradePolicy: UPGRADE`` of the
    DestinationRule decide, then the declared protocol; without a declaration it is the client's.
    """
    asked = Codec.HTTP2 if client == "2" else Codec.HTTP1
    if pool.use_client_protocol:
        return asked
    if pool.upgrade or declared in (AppProtocol.HTTP2, AppProtocol.GRPC):
        return Codec.HTTP2
    return Codec.HTTP1 if declared is AppProtocol.HTTP11 else asked
