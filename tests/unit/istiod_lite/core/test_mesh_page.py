"""What the web page is told."""

from datetime import UTC, datetime

import msgspec
import pytest

from ambient.telemetry.core.traffic import Decisions, Pair, Party, Rates
from istiod_lite.core.index import Index
from istiod_lite.core.mesh_page import OUTSIDE, Certificate, Measured, Operation, Proxy, page
from tests.unit.istiod_lite.objects import (  # fmt: skip
    gateway,
    gateway_class,
    namespace,
    node,
    peer_authentication,
    pod,
    policy,
    service,
)

WEB, API, WP = Party("shop", "web"), Party("shop", "api"), Party("shop", "wp")
SERVICE = "api.shop.svc.cluster.local"
ENDS = datetime(2027, 1, 1, tzinfo=UTC)
OPERATION = Operation(
    version="1.2.3",
    stale_s=0.0,
    certificates=(Certificate("root certificate", ENDS),),
    proxies=(Proxy("zt.istio-system", "ztunnel", True, ""),),
)
NOTHING = Rates(
    requests=0, errors=0, refused=0, p50_ms=None, p99_ms=None, opened=0, secured=None, denied=0,
    failed=0, sent=0, received=0,
)  # fmt: skip


@pytest.fixture
def index():
    made = Index()
    captured = {"ambient.istio.io/redirection": "enabled"}
    web = pod("web", "shop", "10.0.0.1", labels={"app": "web"})
    web["metadata"]["annotations"] = captured
    waiting = pod("api", "shop", "10.0.0.2", labels={"app": "api"})
    waiting["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    made.load(
        {
            "Namespace": [namespace("shop"), namespace("istio-system")],
            "Node": [node("n1")],
            "Pod": [web, waiting, pod("wp", "shop", "10.0.0.3")],
            "Service": [service("api", "shop", "10.96.0.1", selector={"app": "api"})],
            "GatewayClass": [gateway_class()],
            "Gateway": [gateway("wp", "shop")],
            "AuthorizationPolicy": [
                policy("deny", "shop", {"action": "DENY", "rules": [{}]}),
                policy("bad", "shop", {"action": "PERHAPS"}),
            ],
            "PeerAuthentication": [peer_authentication("default", "shop", "STRICT")],
        }
    )
    return made


def shown(index, **measured):
    return page(index, Measured(**measured), OPERATION)


def by(found, field="id"):
    return {each[field]: each for each in found}


def test_workloads_are_nodes_with_their_health_and_capture(index):
    nodes = by(shown(index)["nodes"])
    assert set(nodes) == {"shop/web", "shop/api", "shop/wp"}
    web, api = nodes["shop/web"], nodes["shop/api"]
    assert (web["pods"], web["healthy"], web["inMesh"], web["kind"]) == (1, 1, 1, "workload")
    assert (api["pods"], api["healthy"], api["inMesh"]) == (1, 0, 0)
    assert api["services"] == [SERVICE]
    assert web["identities"] == ["spiffe://cluster.local/ns/shop/sa/default"]
    assert nodes["shop/wp"]["kind"] == "waypoint"


def test_pairs_are_edges_and_strangers_get_a_node(index):
    outside = Pair(Party("", ""), WEB, "")
    rates = {
        Pair(WEB, API, SERVICE): msgspec.structs.replace(NOTHING, requests=5.0, p99_ms=12.0),
        Pair(WEB, WP, SERVICE): NOTHING,
        outside: NOTHING,
        Pair(WEB, Party("gone", "away"), ""): NOTHING,
    }
    found = shown(index, rates=rates, seconds=5.0)
    edges = {(edge["source"], edge["target"]): edge for edge in found["edges"]}
    assert edges["shop/web", "shop/api"]["requests"] == 5.0
    assert edges["shop/web", "shop/api"]["p99Ms"] == 12.0
    assert edges["shop/web", "shop/wp"]["waypointHop"] is True
    assert edges["shop/web", "shop/api"]["waypointHop"] is False
    assert edges[OUTSIDE, "shop/web"]["secured"] is None
    nodes = by(found["nodes"])
    assert nodes[OUTSIDE]["kind"] == nodes["gone/away"]["kind"] == "unknown"
    assert found["measuredSeconds"] == 5.0


def test_policies_show_how_often_they_decided(index):
    decided = {"shop/deny": Decisions(allowed=0, denied=7, would_deny=0)}
    policies = by(shown(index, decisions=decided)["policies"], "name")
    assert policies["shop/deny"]["action"] == "DENY"
    assert policies["shop/deny"]["denied"] == 7
    assert policies["shop/bad"]["denied"] == 0


def test_waypoints_that_nobody_uses_show_it(index):
    (waypoint,) = shown(index)["waypoints"]
    assert waypoint == {"name": "shop/wp", "ready": 0, "routes": 0, "users": []}


def test_problems_come_with_their_remedy(index):
    problems = by(shown(index)["problems"], "object")
    assert problems["shop/bad"]["kind"] == "AuthorizationPolicy"
    assert problems["shop/bad"]["text"]


def told(found):
    return {(each["kind"], each["object"], each["text"]) for each in found["problems"]}


def test_what_is_asked_for_in_vain_is_a_problem(index):
    asking = service("api", "shop", "10.96.0.1", labels={"istio.io/use-waypoint": "lost"})
    index.apply("Service", asking)
    l7 = {"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}
    index.apply("AuthorizationPolicy", policy("get", "shop", l7))
    index.settle()
    texts = {(kind, name): text for kind, name, text in told(shown(index))}
    assert "shop/lost" in texts["Service", "shop/api"]
    assert texts["AuthorizationPolicy", "shop/get"]
    assert ("AuthorizationPolicy", "shop/deny") not in texts


def test_a_pod_that_asks_and_is_not_captured_is_a_problem(index):
    missing = ("Pod", "shop/api", "asks to be in the mesh and is not")
    assert missing not in told(shown(index))
    joined = namespace("shop")
    joined["metadata"]["labels"] = {"istio.io/dataplane-mode": "ambient"}
    index.apply("Namespace", joined)
    index.settle()
    found = told(shown(index))
    assert missing in found
    assert not any(name == "shop/web" for _, name, _ in found)


def test_the_control_plane_itself(index):
    found = shown(index, unreachable=("istio-system/zt",))
    assert found["certificates"] == [{"name": "root certificate", "ends": ENDS.isoformat()}]
    assert found["proxies"] == [
        {"name": "zt.istio-system", "kind": "ztunnel", "synced": True, "error": ""}
    ]
    assert found["unreachable"] == ["istio-system/zt"]
    msgspec.json.encode(found)
