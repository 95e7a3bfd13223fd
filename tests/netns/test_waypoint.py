"""The waypoint as a program: control plane over gRPC, certificates, ports, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import trio

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity
from ambient.hbone.io.relay import Relay
from ambient.identity.core.csr import new_key_and_csr
from tests.fakes.ca_server import FakeCa
from tests.fakes.certs import Issued
from tests.fakes.xds_server import SERVER_NAME, FakeControlPlane
from tests.unit.waypoint.core.test_authenticate import TARGETS, jwks, token
from tests.unit.waypoint.core.test_rate_limit import http_filter, local
from tests.unit.waypoint.io.rig import WAYPOINT_ID, Rig, http_app
from tests.unit.waypoint.sample import (
    INTRUDER,
    config,
    policy,
    service,
    subsets,
    to_subset,
    virtual_service,
    workload,
)

pytestmark = pytest.mark.netns

AT = HostPort("127.0.0.1", 15018)
DENY_DELETE = policy([{"to": [{"operation": {"methods": ["DELETE"]}}]}], "DENY", name="no-delete")


class SignedBy:
    """Certificates of the control plane's authority."""

    def __init__(self, control: FakeControlPlane) -> None:
        self._authority = control.ca.authority

    def issue(self, identity: Identity) -> Issued:
        key, csr = new_key_and_csr(identity)
        leaf, roots = self._authority.sign_csr(csr, identity)
        return Issued(identity, leaf.encode(), key, roots.encode())


async def http_get(port: int, path: str) -> tuple[int, str]:
    """One request to an admin port; status 0 while nobody listens."""
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return 0, ""
    async with stream:
        await stream.send_all(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        text = b""
        async for data in stream:
            text += data
    head, _, body = text.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


async def until_ready(wanted: int = 200) -> str:
    while (answer := await http_get(15021, "/healthz/ready"))[0] != wanted:
        await trio.sleep(0.05)
    return answer[1]


def environment(control: FakeControlPlane) -> dict[str, str]:
    address = f"127.0.0.1:{control.port}"
    return os.environ | {
        "POD_NAME": "waypoint-1",
        "POD_NAMESPACE": "shop",
        "INSTANCE_IP": "127.0.0.1",
        "SERVICE_ACCOUNT": "waypoint",
        "GATEWAY_NAME": "waypoint",
        "XDS_ADDRESS": f"https://{address}",
        "CA_ADDRESS": f"https://{address}",
        "XDS_ROOT_CA": str(control.root_ca_file),
        "ALT_XDS_HOSTNAME": SERVER_NAME,
        "ALT_CA_HOSTNAME": SERVER_NAME,
        "AUTH_TOKEN": str(control.token_file),
        "HBONE_PORT": str(AT.port),
        "MINIMUM_DRAIN_DURATION": "200ms",
        "LOG_FORMAT": "json",
    }


async def test_the_program_from_start_to_drain(tmp_path):
    with FakeControlPlane(
        tmp_path, ca=FakeCa(default_identity=WAYPOINT_ID), labels=True
    ) as control:
        control.xds.put(
            service(),
            workload("reviews-v1", "127.0.1.1", "v1"),
            workload("reviews-v2", "127.0.1.2", "v2"),
        )
        log = tmp_path / "log"
        relay = Relay()
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            mesh = Rig(nursery, relay, SignedBy(control), AT)
            for ip, version in (("127.0.1.1", "v1"), ("127.0.1.2", "v2")):
                await mesh.ztunnel(ip)
                await mesh.app(ip, http_app(version))
            with log.open("wb") as out, trio.fail_after(60):
                run = partial(
                    trio.run_process, env=environment(control), stdout=out, stderr=subprocess.STDOUT
                )
                process = await nursery.start(run, [sys.executable, "-m", "waypoint"])
                await until_ready()
                await _story(control, mesh)
                await _ends_when_told(process, mesh)
            nursery.cancel_scope.cancel()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        _check_log(lines)


async def _story(control: FakeControlPlane, mesh: Rig) -> None:
    """Traffic, then configuration that changes under a kept connection."""
    caller = await mesh.caller()
    assert (await caller.get("/", method="DELETE")).status == 200
    control.xds.put(DENY_DELETE, subsets(), virtual_service({"route": [to_subset("v2")]}))
    while (await caller.get("/", method="DELETE")).status != 403:
        await trio.sleep(0.02)
    assert {(await caller.get()).headers["x-version"] for _ in range(5)} == {"v2"}
    other = await mesh.caller(source=INTRUDER)
    assert (await other.get("/from/outside")).status == 200
    assert mesh.peers == {WAYPOINT_ID}

    _, text = await http_get(15020, "/stats/prometheus")
    counted = next(
        line
        for line in text.splitlines()
        if line.startswith("istio_requests_total") and 'response_code="403"' in line
    )
    for label in (
        'reporter="waypoint"',
        'source_principal="spiffe://cluster.local/ns/shop/sa/curl"',
        'destination_service="reviews.shop.svc.cluster.local"',
        'destination_workload="unknown"',
        'request_protocol="http"',
        'connection_security_policy="mutual_tls"',
    ):
        assert label in counted
    assert "istio_request_duration_milliseconds_bucket{" in text
    assert 'destination_principal="spiffe://cluster.local/ns/shop/sa/reviews"' in text

    control.xds.put(policy([{"when": [{"key": "experimental.x", "values": ["1"]}]}], name="odd"))
    while (await caller.get()).status != 403:
        await trio.sleep(0.02)
    _, dump = await http_get(15000, "/config_dump")
    dump = json.loads(dump)
    reviews = next(s for s in dump["services"] if s["service"].startswith("shop/reviews"))
    assert reviews["deny"] == ["shop/no-delete"]
    assert reviews["allow"] == ["shop/odd"]
    assert reviews["routes"]["9080"][0]["source"] == "VirtualService/shop/reviews http[0]"
    assert [p["object"] for p in dump["problems"]] == ["AuthorizationPolicy/shop/odd"]
    control.xds.remove(
        "type.googleapis.com/ambient.config.v1.Object", "AuthorizationPolicy/shop/odd"
    )
    while (await caller.get()).status != 200:
        await trio.sleep(0.02)
    await _traffic(control, mesh)
    await _guards(control, mesh)


async def _traffic(control: FakeControlPlane, mesh: Rig) -> None:
    """Faults, one endpoint for one user, and a session: what compiled cores promise, for real."""
    caller = await mesh.caller()
    both = {"route": [{"destination": {"host": "reviews"}}]}
    always = {"percentage": {"value": 100}}
    control.xds.put(virtual_service({"fault": {"abort": {"httpStatus": 418, **always}}, **both}))
    while (await caller.get()).status != 418:
        await trio.sleep(0.02)
    by_user = {"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}
    control.xds.put(virtual_service(both), subsets(trafficPolicy=by_user))
    while (await caller.get()).status != 200:
        await trio.sleep(0.02)

    async def of(user: str) -> set[str]:
        return {(await caller.get(x_user=user)).headers["x-version"] for _ in range(6)}

    while len(await of("anna")) != 1:  # the rule may come after the route
        await trio.sleep(0.02)
    seen = {user: await of(user) for user in map(str, range(12))}
    assert all(len(versions) == 1 for versions in seen.values())
    assert len(set.union(*seen.values())) == 2
    session = {
        "parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}],
        "rules": [{"backendRefs": [{"name": "reviews"}], "sessionPersistence": {}}],
    }
    control.xds.put(config("HTTPRoute", "sticky", session))
    while "set-cookie" not in (first := await caller.get()).headers:
        await trio.sleep(0.02)
    cookie = first.headers["set-cookie"].partition(";")[0]
    for _ in range(4):
        again = await caller.get(cookie=cookie)
        assert again.headers["x-version"] == first.headers["x-version"]


async def _guards(control: FakeControlPlane, mesh: Rig) -> None:
    """Tokens, a rate limit, and the pages that tell of them."""
    caller = await mesh.caller()
    rule = {"issuer": "one", "jwks": jwks("one"), "outputClaimToHeaders": [
        {"header": "x-user", "claim": "sub"}]}  # fmt: skip
    by_alice = {"from": [{"source": {"requestPrincipals": ["one/alice"]}}]}
    control.xds.put(
        config("RequestAuthentication", "jwt", {"targetRefs": TARGETS, "jwtRules": [rule]}),
        policy([by_alice], name="only-alice"),
    )
    while (await caller.get()).status != 403:
        await trio.sleep(0.02)
    good = await caller.get(authorization=f"Bearer {token()}")
    assert (good.status, good.json["headers"]["x-user"]) == (200, "alice")
    assert (await caller.get(authorization="Bearer x")).status == 401
    limit = http_filter(local(2))
    control.xds.put(
        config("EnvoyFilter", "rate", {"targetRefs": TARGETS, "configPatches": [limit]})
    )
    while (last := await caller.get(authorization=f"Bearer {token()}")).status != 429:
        await trio.sleep(0.02)
    assert last.body == b"local_rate_limited"
    control.xds.remove(
        "type.googleapis.com/ambient.config.v1.Object",
        "EnvoyFilter/shop/rate",
        "AuthorizationPolicy/shop/only-alice",
    )
    while (await caller.get()).status != 200:
        await trio.sleep(0.02)
    assert json.loads((await http_get(15000, "/server_info"))[1])["state"] == "LIVE"
    assert "::health_flags::healthy" in (await http_get(15000, "/clusters"))[1]
    assert (await http_get(15000, "/ready"))[0] == 200
    _, text = await http_get(15000, "/stats/prometheus")
    assert any(
        line.startswith("istio_requests_total") and 'response_flags="RL"' in line
        for line in text.splitlines()
    )


async def _ends_when_told(process: trio.Process, mesh: Rig) -> None:
    """SIGTERM: not ready, kept connections end after their answer, exit status 0."""
    busy = await mesh.caller()
    assert (await busy.get()).status == 200
    process.send_signal(signal.SIGTERM)
    await until_ready(500)
    assert await busy.stream.receive_some() == b""
    assert await process.wait() == 0


def _check_log(lines: list[dict]) -> None:
    requests = [line for line in lines if line["message"] == "request complete"]
    denied = next(line for line in requests if line["response_code"] == 403)
    assert denied["policy"] == "ns[shop]-policy[no-delete]-rule[0]"
    assert denied["downstream_identity"] == "spiffe://cluster.local/ns/shop/sa/curl"
    assert denied["response_code_details"] == (
        "rbac_access_denied_matched_policy[ns[shop]-policy[no-delete]-rule[0]]"
    )
    outside = next(line for line in requests if line["path"] == "/from/outside")
    assert outside["downstream_identity"] == str(INTRUDER)
    assert outside["upstream_host"] == "127.0.1.2:9080"
    assert outside["upstream_identity"] == "spiffe://cluster.local/ns/shop/sa/reviews"
    assert outside["route_source"] == "VirtualService/shop/reviews http[0]"
    problems = [line for line in lines if line["message"] == "config.not_enforced"]
    assert [(p["object"], p["field"]) for p in problems] == [
        ("AuthorizationPolicy/shop/odd", "spec.rules[0].when[0].key")
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"INSTANCE_IP": "here"}, "INSTANCE_IP='here' is not an IP address"),
        ({"HBONE_PORT": "many"}, "HBONE_PORT='many' cannot be used"),
        ({"POD_NAME": None}, "the environment variable POD_NAME is not set"),
    ],
)
async def test_bad_settings_are_one_line(changes, said):
    given = {"POD_NAME": "w", "POD_NAMESPACE": "shop", "INSTANCE_IP": "10.0.0.1"} | changes
    env = os.environ | {name: value for name, value in given.items() if value is not None}
    done = await trio.run_process(
        [sys.executable, "-m", "waypoint"], env=env, check=False, capture_stderr=True
    )
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert said in lines[0]
