"""``ambientctl why`` on a cluster: answers, dry runs, and connections that were seen."""

from __future__ import annotations

import copy
import json

import pytest

from ambientctl.access_log import read_line
from ambientctl.why.replay import gathered, judge, seen_in, turned
from ambientctl.why.snapshot import index_mesh, overlaid
from tests.unit.ambientctl.meshes import build
from tests.unit.ambientctl.why.cluster import SHOP, by_kind, deny, no_delete, strict, waypoint

CLIENT = "spiffe://cluster.local/ns/shop/sa/client-sa"


def complete(source, ip, authority, event="connection complete"):
    return (
        f"2026-11-28T04:00:00.000000Z\tinfo\taccess\t{event}\tsrc.addr={ip}:5 "
        f'src.identity="{source}" dst.addr=10.244.2.2:15008 dst.hbone_addr={authority} '
        'direction="inbound" bytes_sent=1 duration="1ms"'
    )


def test_access_logs_plain_and_json_of_tunnels_and_waypoints():
    access = read_line(complete(CLIENT, "10.244.1.2", "10.244.2.2:9080"))
    assert access.fields["bytes_sent"] == 1
    assert access.text("duration") == "1ms"
    seen = seen_in(access)
    assert str(seen) == f"{CLIENT} -> 10.244.2.2:9080"
    line = json.dumps(
        {
            "level": "info",
            "time": "t",
            "scope": "access",
            "message": "request complete",
            "method": "DELETE",
            "path": "/reviews/1",
            "authority": "reviews:9080",
            "downstream_identity": CLIENT,
            "downstream_remote_address": "10.244.1.2:4444",
            "downstream_local_address": "10.96.0.21:9080",
        }
    )
    request = seen_in(read_line(line), ("shop", "waypoint"))
    assert (request.method, request.path, request.ip) == ("DELETE", "/reviews/1", "10.244.1.2")
    for text in ("", "{", "[]", "{}", "a\tb", "a\tb\tc\tother event\tx=1", "\x00"):
        assert read_line(text) is None
    outbound = complete(CLIENT, "10.244.1.2", "x").replace("inbound", "outbound")
    assert seen_in(read_line(outbound)) is None


def test_connections_are_judged_again_and_those_that_turn_are_named():
    found = by_kind(SHOP)
    before = index_mesh(found)
    after = index_mesh(
        overlaid(found, [deny("shop/new", principal=CLIENT.removeprefix("spiffe://"))])
    )
    lines = [complete(CLIENT, "10.244.1.2", "10.244.2.2:9080")] * 3
    lines += [complete(CLIENT, "10.244.1.2", "10.244.2.3:9080")]
    lines += [complete(CLIENT, "10.244.1.2", "10.244.9.9:9080"), complete("x", "y", "z")]
    seen = gathered(seen_in(read_line(line)) for line in lines)
    (one,) = turned(before, after, seen)
    assert one.seen.times == 3
    assert one.target == "shop/details-1"
    assert one.after.by == "AuthorizationPolicy shop/new"
    (back,) = turned(after, before, seen)
    assert back.after.allowed


def test_plaintext_that_strict_would_refuse():
    found = by_kind(SHOP)
    line = complete("", "10.244.1.9", "10.244.2.2:9080")
    seen = [seen_in(read_line(line))]
    (one,) = turned(index_mesh(found), index_mesh(overlaid(found, [strict("shop")])), seen)
    assert one.after.by == "PeerAuthentication shop/strict"


def test_requests_that_a_waypoint_would_refuse():
    bound = copy.deepcopy([*SHOP, *waypoint("shop", "10.96.0.50")])
    for obj in bound:
        if (obj["kind"], obj["metadata"]["name"]) == ("Service", "reviews"):
            obj["metadata"]["labels"]["istio.io/use-waypoint"] = "waypoint"
    found = by_kind(bound)
    fields = f'method="DELETE" path="/reviews/1" authority="reviews" downstream_identity="{CLIENT}"'
    line = (
        f't\tinfo\taccess\trequest complete\t{fields} downstream_remote_address="10.244.1.2:4" '
        'downstream_local_address="10.96.0.21:9080"'
    )
    seen = seen_in(read_line(line), ("shop", "waypoint"))
    after = index_mesh(overlaid(found, [no_delete("shop", "reviews")]))
    assert judge(index_mesh(found), seen).allowed
    (one,) = turned(index_mesh(found), after, [seen])
    assert one.after.by == "AuthorizationPolicy shop/no-delete"
    assert one.target == "service shop/reviews"


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  action: DENY
  rules: [{from: [{source: {principals: ["cluster.local/ns/shop/sa/details"]}}]}]
"""


@pytest.fixture
def shop(ambientctl):
    build(ambientctl, policies="")
    return ambientctl


def test_pain_1_why_names_the_rule_and_the_smallest_change(shop):
    out = shop.ok("why", "shop/details", "10.244.1.10:9080")
    assert "allowed" in out
    assert "to refuse it: an AuthorizationPolicy with action DENY in shop" in out
    shop.apply(POLICY)
    out = shop.ok("why", "details.shop", "10.244.1.10:9080")
    assert out == shop.ok("why", "deploy/details.shop", "10.244.1.10:9080")
    assert "DENIED, decided by AuthorizationPolicy shop/nobody" in out
    assert "to let it pass: narrow or remove rule 1 of AuthorizationPolicy shop/nobody" in out
    found = shop.json("why", "shop/details", "10.244.1.10:9080")
    assert found["allowed"] is False


def test_a_dry_run_answers_with_a_policy_that_is_not_applied(shop):
    path = shop.file("policy.yaml", POLICY)
    live = [
        {
            "src.addr": "10.244.2.10:4444",
            "src.identity": "spiffe://cluster.local/ns/shop/sa/details",
            "dst.addr": "10.244.1.10:15008",
            "dst.hbone_addr": "10.244.1.10:9080",
            "direction": "inbound",
        }
    ]
    shop.program("istio-system/ztunnel-1", 15000, {"/connections": live})
    done = shop("why", "shop/details", "10.244.1.10:9080", "--dry-run", "-f", path)
    assert done.status == 1
    now, _, then = done.out.partition(f"with {path}:")
    assert "allowed" in now
    assert "DENIED, decided by AuthorizationPolicy shop/nobody" in then
    assert "1 would break, 0 would begin to work" in then
    assert "would break: spiffe://cluster.local/ns/shop/sa/details -> 10.244.1.10:9080" in then
    assert "not asked: istio-system/ztunnel-2" in done.err
    # Nothing was applied.
    assert "allowed" in shop.ok("why", "shop/details", "10.244.1.10:9080")
    alone = json.loads(shop("why", "--dry-run", "-f", path, "-o", "json").out)
    assert alone["connections"]["turned"][0]["after"]["by"] == "AuthorizationPolicy shop/nobody"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "who calls whom?"),
        (("shop/details",), "who calls whom?"),
        (("shop/details", "shop/reviews:9080", "--dry-run"), "go together"),
        (("shop/details", "shop/reviews:9080", "-f", "x"), "go together"),
        (("--dry-run", "-f", "/nowhere"), "does not exist"),
        (("--dry-run", "-f", "x", "--since", "soon"), "no span of time"),
        (("shop/details", "lost.shop:1"), "no pod, app or service account"),
    ],
)
def test_what_cannot_be_meant_is_said(shop, words, said):
    done = shop("why", *words)
    assert done.status == 2
    assert said in done.err


def test_what_the_mesh_does_not_know_is_out_of_bounds_where_it_says_so():
    """The mesh configuration is read as a tunnel reads it; one that is wrong changes nothing."""
    for mode, wanted in (("REGISTRY_ONLY", True), ("ALLOW_ANY", False), ("NOBODY", False)):
        text = f"outboundTrafficPolicy: {{mode: {mode}}}"
        config = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": text},
        }
        found = {**by_kind(SHOP), "MeshConfig": [config]}
        assert index_mesh(found).state.registry_only is wanted
