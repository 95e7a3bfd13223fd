"""``ambientctl ztunnel-config`` as one who knows istioctl types it."""

from __future__ import annotations

import json

import pytest

from ambient.telemetry.io.http import Response
from tests.unit.ambientctl.conftest import run_command
from tests.unit.ambientctl.dumps import DUMP


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(DUMP))

    def show(*words):
        done = run_command(["ztunnel-config", *words, "-f", str(path)], "", {})
        assert done.status == 0, done
        return [" ".join(line.split()) for line in done.out.splitlines()]

    return show


def test_workloads(dump):
    assert dump("workload") == [
        "NAMESPACE POD NAME ADDRESS NODE WAYPOINT PROTOCOL",
        "default outside 10.244.2.9 node-2 None TCP",
        "shop api api.example.com None TCP",
        "shop reviews-1 10.244.1.5 node-1 waypoint HBONE",
    ]
    assert len(dump("w", "--workload-namespace", "shop")) == 3
    assert len(dump("workloads", "--workload-node", "node-1")) == 2
    assert len(dump("workload", "--address", "10.244.2.9")) == 2


def test_services(dump):
    assert dump("svc") == [
        "NAMESPACE SERVICE NAME SERVICE VIP WAYPOINT ENDPOINTS",
        "shop reviews 10.96.0.20 waypoint 1/2",
        "shop waypoint 10.96.0.99 None 0/0",
    ]


def test_policies(dump):
    assert dump("policies") == [
        "NAMESPACE POLICY NAME ACTION SCOPE",
        "istio-system all Deny Global",
        "shop allow Allow WorkloadSelector",
        "web try Deny (dry run) Namespace",
    ]


def test_certificates(dump):
    header, leaf, root, none = dump("certs")
    assert header.startswith("CERTIFICATE NAME TYPE STATUS VALID CERT SERIAL NUMBER NOT AFTER")
    identity = "spiffe://cluster.local/ns/shop/sa/reviews"
    assert leaf == f"{identity} Leaf Available true ff 2026-01-02T00:00:00Z 2026-01-01T00:00:00Z"
    assert root == f"{identity} Root Available true 7 b a"
    assert none == "spiffe://cluster.local/ns/shop/sa/late NA Unavailable false NA NA NA"


def test_connections_by_name_and_raw(dump):
    assert dump("cons")[1:] == [
        "reviews-1.shop Inbound reviews-1.shop:9080 outside.default:5555 "
        "reviews.shop.svc.cluster.local:9080 HBONE",
        "reviews-1.shop Outbound reviews-1.shop:4444 [fd00::1]:9080 "
        "reviews.shop.svc.cluster.local:9080 TCP",
    ]
    assert "10.244.2.9:5555" in dump("connections", "--raw")[1]
    assert len(dump("connections", "--direction", "inbound")) == 2
    assert len(dump("connections", "--workload-namespace", "web")) == 1


def test_all_with_headings_in_istioctls_order(dump):
    headings = [line for line in dump("all", "--with-headers") if line.startswith("------")]
    assert [one.strip("- ") for one in headings] == [
        "WORKLOAD INFO", "SERVICE INFO", "POLICY INFO", "SECRET INFO", "CONNECTIONS INFO",
    ]  # fmt: skip


def test_lists_of_older_ztunnels_are_mappings(tmp_path):
    old = {**DUMP, "workloads": {one["uid"]: one for one in DUMP["workloads"]}}
    done = run_command(["zc", "w", "-f", "-", "-o", "json"], json.dumps(old), {})
    assert json.loads(done.out) == old["workloads"]
    assert run_command(["zc", "w", "-f", "-"], json.dumps(old), {}).out.count("\n") == 4


@pytest.mark.parametrize("text", ["{}", "[]", "no"])
def test_what_is_no_dump_is_refused(text):
    done = run_command(["zc", "w", "-f", "-"], text, {})
    assert done.status == 1
    assert done.err.startswith("error: ")


NODES = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\n"
NAMESPACES = "".join(
    f"---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"
    for name in ("istio-system", "shop")
)


def test_through_the_cluster_by_pod_by_workload_and_by_node(ambientctl):
    ambientctl.apply(NODES + NAMESPACES)
    ambientctl.pod("istio-system/zt-1", "10.244.1.2", labels={"app": "ztunnel"})
    ambientctl.pod("istio-system/zt-2", "10.244.2.2", node="node-2", labels={"app": "ztunnel"})
    ambientctl.pod("shop/reviews-1", "10.244.1.5")
    levels = []

    def logging(request):
        levels.append((request.method, dict(request.query)))
        return Response(200, "current log level is debug\n")

    ambientctl.program("istio-system/zt-1", 15000, {"/config_dump": DUMP, "/logging": logging})
    assert "reviews-1" in ambientctl.ok("zc", "workload", "zt-1.istio-system")
    assert "reviews-1" in ambientctl.ok("zc", "workload", "--node", "node-1")
    of_pod = ambientctl.ok("zc", "workload", "reviews-1", "-n", "shop")
    assert "reviews-1" in of_pod
    assert "outside" not in of_pod
    assert "there is no node node-9" in ambientctl("zc", "workload", "--node", "node-9").err
    assert "there is no pod lost" in ambientctl("zc", "workload", "lost").err

    said = ambientctl.ok("zc", "log", "zt-1", "--level", "warning")
    assert said == "zt-1.istio-system:\ncurrent log level is debug\n"
    ambientctl.ok("zc", "log", "zt-1", "-r")
    ambientctl.ok("zc", "log", "zt-1")
    assert levels == [("POST", {"level": "warn"}), ("POST", {"reset": ""}), ("POST", {})]

    unreachable = ambientctl("zc", "certs", "--node", "node-2")
    assert unreachable.status == 1
    assert "Connection refused" in unreachable.err


def test_without_ztunnel_there_is_one_clear_line(ambientctl):
    done = ambientctl("zc", "workload")
    assert done.status == 1
    assert "error: no ztunnel runs\nhint: " in done.err
