"""L7 policy as a table: each row is a sentence of the AuthorizationPolicy reference."""

from __future__ import annotations

import pytest

from ambient.api.spiffe import Identity
from tests.unit.waypoint.sample import (
    CURL,
    INTRUDER,
    PLACE,
    config,
    mesh,
    policy,
    program,
    request,
    service,
)
from waypoint.core.authz import decide, questions

GET = {"to": [{"operation": {"methods": ["GET"]}}]}
FROM_CURL = {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/curl"]}}]}


def source(**fields):
    return {"from": [{"source": fields}]}


def operation(**fields):
    return {"to": [{"operation": fields}]}


def when(key, **values):
    return {"when": [{"key": key, **values}]}


def verdict(*policies, http=True, **facts):
    return decide(program(*policies).policies(service()), request(**facts), http=http)


@pytest.mark.parametrize(
    ("policies", "facts", "allowed"),
    [
        ([], {}, True),  # nothing attached: allow
        ([policy([GET])], {}, True),  # an ALLOW matches
        ([policy([GET])], {"method": "DELETE"}, False),  # an ALLOW exists and none matches
        ([policy([])], {}, False),  # ALLOW without rules allows nothing
        ([policy([], "DENY")], {}, True),  # DENY without rules denies nothing
        ([policy([{}])], {}, True),  # an empty rule matches everything
        ([policy([{}], "DENY")], {}, False),
        ([policy([{}]), policy([GET], "DENY", "d")], {}, False),  # DENY beats ALLOW
        ([policy([GET]), policy([FROM_CURL], name="q")], {"method": "PUT"}, True),  # any ALLOW
        ([policy([{**GET, **FROM_CURL}])], {"source": INTRUDER}, False),  # from AND to
        ([policy([GET], "AUDIT")], {}, True),  # AUDIT never refuses
        ([policy([GET], "CUSTOM")], {}, False),  # no provider to ask: refuse what it matches
        ([policy([GET], "CUSTOM")], {"method": "PUT"}, True),
        ([policy([GET], "PERMIT")], {"method": "PUT"}, False),  # unknown action: refuse all
    ],
)
def test_policies_combine(policies, facts, allowed):
    assert verdict(*policies, **facts).allowed is allowed


@pytest.mark.parametrize(
    ("rule", "facts", "matches"),
    [
        (source(principals=["cluster.local/ns/shop/sa/curl"]), {}, True),
        (source(principals=["cluster.local/ns/shop/sa/*"]), {}, True),
        (source(principals=["*/sa/curl"]), {}, True),
        (source(principals=["*"]), {"source": None}, False),  # presence needs an identity
        (source(notPrincipals=["*"]), {"source": None}, True),
        (source(notPrincipals=["cluster.local/ns/shop/sa/curl"]), {}, False),
        (source(namespaces=["shop"]), {}, True),
        (source(notNamespaces=["shop"]), {"source": INTRUDER}, True),
        (source(serviceAccounts=["curl"]), {}, True),  # of the policy's namespace
        (source(serviceAccounts=["outside/intruder"]), {"source": INTRUDER}, True),
        (source(serviceAccounts=["intruder"]), {"source": INTRUDER}, False),
        (source(ipBlocks=["10.0.0.0/16"]), {}, True),
        (source(ipBlocks=["10.0.9.9"]), {}, True),
        (source(notIpBlocks=["10.0.0.0/16"]), {}, False),
        # x-forwarded-for decides for remote addresses and never for direct ones
        (
            source(remoteIpBlocks=["1.2.3.4"]),
            {"headers": {"x-forwarded-for": "5.5.5.5, 1.2.3.4"}},
            True,
        ),
        (source(ipBlocks=["1.2.3.4"]), {"headers": {"x-forwarded-for": "1.2.3.4"}}, False),
        (source(namespaces=["shop"], ipBlocks=["11.0.0.1"]), {}, False),  # fields are AND-ed
        (
            {"from": [{"source": {"namespaces": ["x"]}}, {"source": {"namespaces": ["shop"]}}]},
            {},
            True,
        ),
        (operation(methods=["GET", "HEAD"]), {"method": "HEAD"}, True),
        (operation(notMethods=["GET"]), {}, False),
        (operation(paths=["/a"]), {"target": "/a?x=1"}, True),  # the query does not count
        (operation(paths=["/a"]), {"target": "/a/b"}, False),
        (operation(paths=["/a/*"]), {"target": "/a/b/c"}, True),
        (operation(paths=["*.html"]), {"target": "/x/y.html"}, True),
        (operation(paths=["*"]), {}, True),
        (operation(paths=["/a/{*}/c"]), {"target": "/a/b/c"}, True),
        (operation(paths=["/a/{*}/c"]), {"target": "/a/b/b/c"}, False),
        (operation(paths=["/a/{*}/c"]), {"target": "/a/b=*é/c"}, True),  # unlike Envoy: any segment
        (operation(paths=["/a/{**}"]), {"target": "/a/b/c"}, True),
        (operation(paths=["/a/{**}/z"]), {"target": "/a/b/c/z"}, True),
        (operation(notPaths=["/admin*"]), {"target": "/admin"}, False),
        (operation(hosts=["REVIEWS:9080"]), {}, True),
        (operation(hosts=["reviews"]), {}, True),  # a host without a port means every port
        (operation(hosts=["reviews:80"]), {}, False),
        (operation(notHosts=["reviews"]), {"host": "reviews:81"}, False),
        (operation(ports=["9080"]), {}, True),  # the port that the client called
        (operation(notPorts=["9080"]), {}, False),
        (when("request.headers[X-Team]", values=["blue"]), {"headers": {"x-team": "blue"}}, True),
        (when("request.headers[x-team]", values=["b*"]), {}, False),  # absent has no value
        (when("request.headers[x-team]", notValues=["blue"]), {}, True),
        (when("source.namespace", values=["shop"]), {}, True),
        (when("source.principal", notValues=["*intruder"]), {"source": INTRUDER}, False),
        (when("source.serviceAccount", values=["shop/curl"]), {}, True),
        (when("destination.port", values=["9080"]), {}, True),
        (when("destination.ip", values=["10.96.0.0/16"]), {}, True),
        (when("source.ip", values=["10.0.9.0/24"], notValues=["10.0.9.9"]), {}, False),
        (when("connection.sni", values=["*.shop"]), {"sni": "reviews.shop"}, True),
        (when("connection.sni", values=["*"]), {}, False),
    ],
)
def test_rule_matches(rule, facts, matches):
    assert verdict(policy([rule]), **facts).allowed is matches
    assert verdict(policy([rule], "DENY"), **facts).allowed is not matches


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (source(colours=["*"]), "spec.rules[0].from[0].source.colours"),
        (source(ipBlocks=["10.0.0.0/99"]), "spec.rules[0].from[0].source.ipBlocks"),
        (source(principals=[]), "spec.rules[0].from[0].source.principals"),
        (source(serviceAccounts=["a/b/c"]), "spec.rules[0].from[0].source.serviceAccounts"),
        (operation(ports=["http"]), "spec.rules[0].to[0].operation.ports"),
        (operation(paths=["/x{*}"]), "spec.rules[0].to[0].operation.paths"),
        (operation(colour=["red"]), "spec.rules[0].to[0].operation.colour"),
        (when("request.auth.claims[iss", values=["x"]), "spec.rules[0].when[0].key"),
        (when("source.ip"), "spec.rules[0].when[0]"),
        ({"from": [{}]}, "spec.rules[0].from[0].source"),
        ({"because": "x"}, "spec.rules[0].because"),
        (None, "spec.rules[0]"),
        ("everything", "spec.rules[0]"),
    ],
)
def test_what_cannot_be_enforced_fails_closed_and_is_named(rule, field):
    allow, deny = program(policy([rule])), program(policy([rule], "DENY"))
    assert not decide(allow.policies(service()), request()).allowed
    assert not decide(deny.policies(service()), request()).allowed
    assert [(p.object, p.field) for p in allow.problems] == [("AuthorizationPolicy/shop/p", field)]


def test_only_the_broken_part_of_a_deny_is_taken_as_met():
    broken = policy([{**operation(methods=["DELETE"]), **source(colours=["*"])}], "DENY")
    assert verdict(broken).allowed
    assert not verdict(broken, method="DELETE").allowed


def test_a_policy_that_cannot_be_read_refuses():
    unreadable = program(policy([{}], targetRefs="reviews"))
    assert not decide(unreadable.policies(service()), request()).allowed
    assert unreadable.problems[0].effect == "all requests that it may concern are refused"


GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}
CLASS = {"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "istio-waypoint"}


@pytest.mark.parametrize(
    ("changes", "denies"),
    [
        ({}, True),
        ({"targetRefs": [GATEWAY]}, True),
        ({"targetRefs": [{**GATEWAY, "name": "other"}]}, False),
        ({"targetRefs": [GATEWAY], "namespace": "elsewhere"}, False),
        ({"targetRefs": [CLASS], "namespace": "istio-system"}, True),
        ({"targetRefs": [CLASS]}, False),  # a class is targeted from the root namespace only
        ({"targetRefs": [{"kind": "Service", "name": "ratings"}]}, False),
        ({"targetRefs": [{"kind": "Service", "name": "ratings"}, GATEWAY]}, True),
        ({"namespace": "elsewhere"}, False),  # a service is targeted from its own namespace only
        # without targetRefs a policy belongs to the node tunnels
        ({"targetRefs": []}, False),
        ({"targetRefs": [], "selector": {"matchLabels": {"app": "reviews"}}}, False),
    ],
)
def test_attachment(changes, denies):
    assert verdict(policy([{}], "DENY", **changes)).allowed is not denies


def test_a_pods_own_address_has_the_gateways_policies_only():
    attached = program(policy([{}], "DENY"), policy([{}], "DENY", "g", targetRefs=[GATEWAY]))
    assert [p.name for p in attached.policies(None).denying] == ["g"]


@pytest.mark.parametrize(
    ("rule", "action", "allowed"),
    [
        (source(namespaces=["shop"]), "ALLOW", True),
        (operation(methods=["GET"]), "ALLOW", False),  # an ALLOW that asks for HTTP is out
        (operation(methods=["DELETE"]), "DENY", False),  # a DENY matches on what is left
        ({**operation(methods=["DELETE"]), **source(namespaces=["outside"])}, "DENY", True),
        (operation(ports=["9080"], methods=["DELETE"]), "DENY", False),
        (operation(ports=["1"], methods=["DELETE"]), "DENY", True),
    ],
)
def test_raw_connections_have_no_http_fields(rule, action, allowed):
    assert verdict(policy([rule], action), http=False).allowed is allowed


def test_the_verdict_names_the_deciding_rule():
    denied = verdict(policy([GET, operation(methods=["DELETE"])], "DENY"), method="DELETE")
    assert (denied.reason, denied.detail) == ("denied by shop/p", "ns[shop]-policy[p]-rule[1]")
    allowed = verdict(policy([GET]))
    assert (allowed.reason, allowed.detail) == ("allowed by shop/p", "ns[shop]-policy[p]-rule[0]")
    unmatched = verdict(policy([GET]), policy([FROM_CURL], name="q"), method="PUT", source=INTRUDER)
    assert unmatched.reason == "no ALLOW policy matched (of shop/p, shop/q)"
    assert unmatched.detail == "none"


def test_a_dry_run_reports_and_does_not_refuse():
    dry = {"metadata": {"annotations": {"istio.io/dry-run": "true"}}}
    found = verdict(
        policy([GET], "DENY", **dry), policy([operation(methods=["PUT"])], name="q", **dry)
    )
    assert found.allowed
    assert found.dry_run_denials == ("shop/p", "shop/q")


def test_cluster_local_also_means_the_meshs_own_trust_domain():
    import msgspec

    place = msgspec.structs.replace(PLACE, trust_domain="corp")
    compiled = program(policy([FROM_CURL]), place=place)
    corp = request(source=Identity("corp", "shop", "curl"))
    assert decide(compiled.policies(service()), corp).allowed
    assert decide(compiled.policies(service()), request(source=CURL)).allowed
    assert mesh()


CLAIMS = {
    "iss": "https://issuer/realm",
    "sub": "alice",
    "aud": ["shop", "bank"],
    "azp": "app",
    "groups": ["dev", 7],
    "admin": True,
    "realm": {"roles": ["writer"], "tier": "gold"},
    "https://x/y": "z",
}


def principal(*values):
    return source(requestPrincipals=list(values))


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (principal("*"), True),
        (principal("https://issuer/realm/alice"), True),
        (principal("https://issuer/realm/bob"), False),
        (principal("https://issuer/realm/*"), True),
        (principal("https://issuer/realm/al*"), True),
        (principal("https://issuer*"), False),  # split at the last slash: "https:/" and "issuer*"
        (principal("*/alice"), True),
        (principal("*realm/alice"), True),
        (principal("*ice"), True),
        (principal("http*"), True),
        (source(notRequestPrincipals=["*"]), False),
        (when("request.auth.principal", values=["*/alice"]), True),
        (when("request.auth.audiences", values=["bank"]), True),
        (when("request.auth.audiences", notValues=["bank"]), False),
        (when("request.auth.presenter", values=["app"]), True),
        (when("request.auth.claims[groups]", values=["dev"]), True),
        (when("request.auth.claims[groups]", values=["7"]), False),  # only strings compare
        (when("request.auth.claims[admin]", values=["true"]), False),
        (when("request.auth.claims[realm][roles]", values=["wri*"]), True),
        (when("request.auth.claims[realm][tier]", values=["gold"]), True),
        (when("request.auth.claims[realm]", values=["*"]), False),
        (when("request.auth.claims[https://x/y]", values=["z"]), True),
        (when("request.auth.claims[absent]", values=["*"]), False),
        (when("request.auth.claims[absent]", notValues=["x"]), True),
    ],
)
def test_what_a_token_says(rule, matches):
    asked = request()
    asked.claims = CLAIMS
    assert decide(program(policy([rule])).policies(service()), asked).allowed is matches


@pytest.mark.parametrize("rule", [principal("*"), when("request.auth.claims[sub]", values=["*"])])
def test_without_a_token_there_are_no_claims(rule):
    assert not verdict(policy([rule])).allowed
    denied = verdict(policy([source(notRequestPrincipals=["*"])], "DENY"))
    assert not denied.allowed


@pytest.mark.parametrize(
    ("noted", "values", "matches"),
    [
        ("gold", ["gold"], True),
        ("gold", ["[gold]"], False),
        (["gold", "x"], ["[gold]"], True),
        (["gold"], ["gold"], False),
        (7, ["7"], False),
    ],
)
def test_what_filters_have_noted(noted, values, matches):
    rule = when("experimental.envoy.filters.http.ext_authz[tier]", values=values)
    asked = request()
    asked.metadata["envoy.filters.http.ext_authz"] = {"tier": noted}
    assert decide(program(policy([rule])).policies(service()), asked).allowed is matches


MESH = config(
    "MeshConfig",
    "mesh",
    {
        "trustDomainAliases": ["old.example"],
        "extensionProviders": [
            {"name": name, "envoyExtAuthzGrpc": {"service": "authz.shop", "port": 9000}}
            for name in ("bouncer", "auditor")
        ],
    },
    "istio-system",
)


def custom(rules, provider="bouncer", name="c", **changes):
    return policy(rules, "CUSTOM", name, provider={"name": provider}, **changes)


def asked_of(*policies, **facts):
    made = program(MESH, *policies).policies(service())
    return [(one.provider, str(one.by), one.dry_run) for one in questions(made, request(**facts))]


def test_custom_policies_name_whom_to_ask():
    rule = "ns[shop]-policy[c]-rule[0]"
    assert asked_of(custom([GET])) == [("bouncer", rule, False)]
    assert asked_of(custom([GET]), method="PUT") == []
    assert asked_of(custom([GET]), custom([{}], "auditor", "a")) == [
        ("auditor", "ns[shop]-policy[a]-rule[0]", False),
        ("bouncer", rule, False),
    ]


def test_a_provider_is_asked_once_and_a_dry_run_only_counts():
    trial = {"metadata": {"annotations": {"istio.io/dry-run": "true"}}}
    assert [q[2] for q in asked_of(custom([{}], name="b", **trial))] == [True]
    assert [q[2] for q in asked_of(custom([{}], name="b", **trial), custom([GET]))] == [False]


def test_a_provider_that_the_mesh_does_not_have_refuses():
    made = program(MESH, custom([GET], "nobody")).policies(service())
    assert not decide(made, request()).allowed
    assert decide(made, request(method="PUT")).allowed
    assert questions(made, request()) == ()


def test_custom_cannot_ask_for_tokens_and_then_asks_more_often():
    made = program(MESH, custom([{**GET, **principal("*")}]))
    assert made.problems[0].effect == "taken as met"
    assert len(questions(made.policies(service()), request())) == 1


def test_audit_marks_and_never_refuses():
    made = verdict(policy([GET], "AUDIT"))
    assert (made.allowed, str(made.audited)) == (True, "ns[shop]-policy[p]-rule[0]")
    assert verdict(policy([GET], "AUDIT"), method="PUT").audited is None


def test_an_alias_of_the_trust_domain_is_the_trust_domain():
    old = policy([source(principals=["old.example/ns/shop/sa/curl"])])
    assert decide(program(old, MESH).policies(service()), request()).allowed
    assert decide(program(old).changed([MESH]).policies(service()), request()).allowed
    assert not verdict(old).allowed
