"""The explanation says what live traffic would get, and names what decided."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ambient.api.service import AppProtocol, Port
from tests.unit.waypoint.sample import (
    CURL,
    INTRUDER,
    OWN,
    WAYPOINT,
    config,
    mesh,
    policy,
    service,
    subsets,
    to_subset,
    virtual_service,
    workload,
)
from tests.unit.waypoint.tokens import jwks, token
from waypoint.core.explain import RequestFacts, explain
from waypoint.core.program import Program


def facts(**changes):
    given = {"source": CURL, "source_ip": ip_address("10.0.9.9"), "authority": "10.96.0.10:9080"}
    return RequestFacts(**(given | changes))


def ask(objects, directory, own, given):
    return explain(Program(own.place).changed(objects), directory, own, given)


TO_REVIEWS = {"route": [{"destination": {"host": "reviews"}}]}


def told(*objects, state=None):
    return ask(objects, state or mesh(), OWN, facts())


SPLIT = (
    subsets(),
    virtual_service({"name": "split", "route": [to_subset("v1", 90), to_subset("v2", 10)]}),
)
READERS = policy(
    [
        {
            "from": [{"source": {"namespaces": ["shop"]}}],
            "to": [{"operation": {"methods": ["GET"], "paths": ["/api*"]}}],
        }
    ],
    name="readers",
)


def test_an_allowed_request_shows_route_shares_and_rule():
    found = ask([*SPLIT, READERS], mesh(), OWN, facts(target="/api/1"))
    assert found.allowed
    assert found.status == 0
    assert found.verdict.detail == "ns[shop]-policy[readers]-rule[0]"
    assert (found.route, found.route_source) == ("split", "VirtualService/shop/reviews http[0]")
    assert [
        (s.backend, s.share, tuple(f"{t.workload.name} {t.address}" for t in s.targets))
        for s in found.shares
    ] == [
        ("reviews.shop.svc.cluster.local subset v1", 0.9, ("reviews-v1 10.0.0.1:9080",)),
        ("reviews.shop.svc.cluster.local subset v2", 0.1, ("reviews-v2 10.0.0.2:9080",)),
    ]


def test_a_refused_request_shows_what_kept_each_rule_from_matching():
    found = ask([READERS], mesh(), OWN, facts(target="/api", method="DELETE"))
    assert (found.allowed, found.status, found.shares) == (False, 403, ())
    assert found.verdict.reason == "no ALLOW policy matched (of shop/readers)"
    assert found.misses == (("shop/readers", "ALLOW", 0, "operation.methods"),)
    other = ask([READERS], mesh(), OWN, facts(target="/api", source=INTRUDER))
    assert other.misses == (("shop/readers", "ALLOW", 0, "source.namespaces"),)


def test_routes_that_did_not_apply_are_named():
    only = virtual_service({"match": [{"uri": {"exact": "/a"}}], "route": [to_subset("v1")]})
    found = ask([subsets(), only], mesh(), OWN, facts(target="/b"))
    assert (found.allowed, found.status, found.route) == (True, 404, "")
    assert found.notes == ("VirtualService/shop/reviews http[0] match[0] does not apply: uri",)


def test_shares_that_lead_nowhere_say_so():
    found = ask([SPLIT[1]], mesh(), OWN, facts())
    assert [share.problem.details for share in found.shares] == ["cluster_not_found"] * 2


def test_a_destination_that_is_not_ours():
    found = ask([], mesh(), OWN, facts(authority="10.0.0.1:9080"))
    assert not found.allowed
    assert found.refusal == "workload shop/reviews-v1 does not use waypoint shop/waypoint"


def test_a_pods_own_address():
    state = mesh(workload("bound", "10.0.0.8", "v1", waypoint=WAYPOINT))
    found = ask([READERS], state, OWN, facts(authority="10.0.0.8:80"))
    assert found.allowed
    assert [str(t.address) for t in found.shares[0].targets] == ["10.0.0.8:80"]


def test_what_cannot_be_read_allows_nothing():
    broken = policy([{"from": [{"source": {"colours": ["*"]}}]}], name="jwt")
    found = ask([broken], mesh(), OWN, facts())
    assert not found.allowed


def test_dry_runs_are_mentioned():
    dry = policy([{}], "DENY", metadata={"annotations": {"istio.io/dry-run": "true"}})
    found = ask([dry], mesh(), OWN, facts())
    assert found.allowed
    assert found.notes == ("dry-run shop/p would deny",)


def test_faults_and_copies_are_told_not_guessed():
    rule = {
        "fault": {"abort": {"httpStatus": 418, "percentage": {"value": 50}}},
        "mirrors": [{"destination": {"host": "ratings"}}],
        **TO_REVIEWS,
    }
    found = told(virtual_service(rule))
    assert found.status == 0
    assert "50.0000% of requests are answered 418" in found.notes
    assert any(
        note.startswith("100.0000% of requests are copied to ratings") for note in found.notes
    )
    rule["fault"]["abort"]["percentage"]["value"] = 100
    assert told(virtual_service(rule)).status == 418


def test_connections_that_are_not_http_have_routes_too():
    tcp = service(ports=(Port(9080, 9080, AppProtocol.TCP),))
    spec = {
        "hosts": ["reviews"],
        "tls": [{"match": [{"sniHosts": ["a"]}], **TO_REVIEWS}],
        "tcp": [{"route": [{"destination": {"host": "ratings"}}]}],
    }
    found = told(config("VirtualService", "s", spec), state=mesh(tcp))
    assert found.raw
    assert found.route_source == "VirtualService/shop/s tcp[0]"
    assert [t.workload.name for share in found.shares for t in share.targets] == ["ratings-v1"]
    assert found.notes == (
        "VirtualService/shop/s tls[0] match[0] applies to some server names only",
    )
    found = told(state=mesh(tcp))
    assert (found.route, len(found.shares[0].targets)) == ("", 2)


def test_what_a_live_request_has_to_pass_first_is_told():
    provider = {"envoyExtAuthzGrpc": {"service": "authz.shop", "port": 9000}, "name": "bouncer"}
    mesh_config = config("MeshConfig", "mesh", {"extensionProviders": [provider]})
    custom = policy([{}], "CUSTOM", "c", provider={"name": "bouncer"})
    targets = [{"kind": "Service", "group": "", "name": "reviews"}]
    rules = [{"issuer": "https://idp"}]
    tokens = config("RequestAuthentication", "t", {"targetRefs": targets, "jwtRules": rules})
    found = ask([mesh_config, custom, tokens], mesh(), OWN, facts())
    assert found.allowed
    assert found.notes == (
        "tokens of https://idp are verified; this request carries none",
        "shop/c asks the authorizer bouncer first, which may refuse",
    )


@pytest.mark.parametrize(
    ("given", "at_s", "status", "allowed"),
    [
        (token("one", role="reader"), 1.0, 0, True),
        (token("one", role="editor"), 1.0, 403, False),
        (token("one", role="reader", exp=9), 100.0, 401, False),
        (token("two", role="reader"), 1.0, 401, False),
        ("a.b.c", 1.0, 401, False),
    ],
)
def test_tokens_are_verified_with_the_keys_of_the_configuration(given, at_s, status, allowed):
    targets = [{"kind": "Service", "group": "", "name": "reviews"}]
    rules = [{"issuer": "one", "jwks": jwks("one")}]
    tokens = config("RequestAuthentication", "t", {"targetRefs": targets, "jwtRules": rules})
    readers = policy([{"when": [{"key": "request.auth.claims[role]", "values": ["reader"]}]}])
    headers = (("authorization", f"Bearer {given}"),)
    found = ask([tokens, readers], mesh(), OWN, facts(headers=headers, at_s=at_s))
    assert (found.allowed, found.status) == (allowed, status)


def test_keys_that_only_the_waypoint_has_prove_nothing_here():
    targets = [{"kind": "Service", "group": "", "name": "reviews"}]
    rules = [{"issuer": "one", "jwksUri": "https://idp/keys"}]
    tokens = config("RequestAuthentication", "t", {"targetRefs": targets, "jwtRules": rules})
    headers = (("authorization", f"Bearer {token('one')}"),)
    found = ask([tokens], mesh(), OWN, facts(headers=headers))
    assert found.allowed
    assert "keys that only the waypoint has" in found.notes[0]
