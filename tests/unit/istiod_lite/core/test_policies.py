"""AuthorizationPolicy to L4 policy: one row per rule of the translation."""

from ipaddress import ip_network

import pytest

from ambient.api.policy import (
    Action,
    Authorization,
    Match,
    MatchKind,
    Scope,
    ServiceAccountMatch,
    StringMatch,
)
from ambient.kube.core.objects import AuthorizationPolicy, decode
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.policies import translate
from tests.unit.istiod_lite.objects import policy

WEB = "cluster.local/ns/shop/sa/web"
WEB_MATCH = Match(principals=(StringMatch(MatchKind.EXACT, WEB),))


def translated(spec, namespace="shop", **more):
    made = decode(policy("p", namespace, spec, **more), AuthorizationPolicy)
    return translate(made, MeshFacts())


def source(**fields):
    return {"from": [{"source": fields}]}


def operation(**fields):
    return {"to": [{"operation": fields}]}


def test_the_whole_value():
    spec = {
        "action": "DENY",
        "selector": {"matchLabels": {"app": "a"}},
        "rules": [
            {
                "from": [
                    {"source": {"principals": [WEB], "namespaces": ["x*"]}},
                    {"source": {"notIpBlocks": ["10.0.0.1", "10.1.2.3/8"]}},
                ],
                "to": [{"operation": {"ports": ["80"], "notPorts": ["81"]}}],
                "when": [{"key": "source.namespace", "values": ["*"], "notValues": ["*-test"]}],
            }
        ],
    }
    assert translated(spec).authorization == Authorization(
        name="p",
        namespace="shop",
        scope=Scope.WORKLOAD_SELECTOR,
        action=Action.DENY,
        groups=(
            (
                (Match(destination_ports=(80,), not_destination_ports=(81,)),),
                (
                    Match(
                        principals=(StringMatch(MatchKind.EXACT, WEB),),
                        namespaces=(StringMatch(MatchKind.PREFIX, "x"),),
                    ),
                    Match(not_source_ips=(ip_network("10.0.0.1/32"), ip_network("10.0.0.0/8"))),
                ),
                (
                    Match(
                        namespaces=(StringMatch(MatchKind.PRESENCE),),
                        not_namespaces=(StringMatch(MatchKind.SUFFIX, "-test"),),
                    ),
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("namespace", "selector", "scope"),
    [
        ("shop", None, Scope.NAMESPACE),
        ("istio-system", None, Scope.GLOBAL),
        ("shop", {}, Scope.WORKLOAD_SELECTOR),
        ("istio-system", {"matchLabels": {"a": "b"}}, Scope.WORKLOAD_SELECTOR),
    ],
)
def test_scope(namespace, selector, scope):
    spec = {} if selector is None else {"selector": selector}
    assert translated(spec, namespace).authorization.scope is scope


def test_service_accounts_of_the_policys_own_namespace():
    spec = {"rules": [source(serviceAccounts=["web", "other/api"])]}
    assert translated(spec).authorization.groups == (
        (
            (
                Match(
                    service_accounts=(
                        ServiceAccountMatch("shop", "web"),
                        ServiceAccountMatch("other", "api"),
                    )
                ),
            ),
        ),
    )


def test_no_rules_never_match_and_an_empty_rule_always_does():
    assert translated({}).authorization.groups == ()
    assert translated({"rules": [{}]}).authorization.groups == ((),)


@pytest.mark.parametrize(
    "rule",
    [
        operation(methods=["GET"]),
        {**source(principals=[WEB]), **operation(paths=["/x"], ports=["80"])},
        source(requestPrincipals=["*"]),
        {"when": [{"key": "request.headers[x]", "values": ["y"]}]},
        source(ipBlocks=["10.0.0.1", "10.0.0.300"]),
        operation(ports=["http"]),
        operation(ports=["70000"]),
        source(notIpBlocks=["nonsense"]),
        source(serviceAccounts=["a/"]),
    ],
)
def test_allow_leaves_out_rules_that_cannot_be_kept_whole(rule):
    result = translated({"rules": [rule, source(principals=[WEB])]})
    assert result.authorization.groups == (((WEB_MATCH,),),)
    assert result.remarks


@pytest.mark.parametrize(
    ("rule", "group"),
    [
        # HTTP attributes are dropped from a match: more is denied.
        (operation(methods=["GET"], ports=["80"]), ((Match(destination_ports=(80,)),),)),
        # A match of HTTP attributes only never fires.
        (operation(methods=["GET"]), ((Match(),),)),
        ({**source(principals=[WEB]), **operation(paths=["/"])}, ((Match(),), (WEB_MATCH,))),
        # Unreadable values: the field is dropped, what is left alone always fires.
        (operation(ports=["http"]), ()),
        (source(principals=[WEB], ipBlocks=["bad"]), ((WEB_MATCH,),)),
        (
            {**source(ipBlocks=["bad"]), **operation(ports=["80"])},
            ((Match(destination_ports=(80,)),),),
        ),
        (source(), ()),
    ],
)
def test_deny_gets_wider_never_narrower(rule, group):
    assert translated({"action": "DENY", "rules": [rule]}).authorization.groups == (group,)


@pytest.mark.parametrize(
    ("spec", "remark"),
    [
        ({"action": "CUSTOM"}, "CUSTOM"),
        ({"action": "AUDIT"}, "AUDIT"),
        ({"targetRefs": [{"kind": "Service", "name": "a"}]}, None),
        ({"targetRef": {"kind": "Gateway", "name": "a"}}, None),
    ],
)
def test_what_tunnels_are_not_told(spec, remark):
    result = translated({**spec, "rules": [{}]})
    assert result.authorization is None
    assert (remark in result.remarks[0]) if remark else (result.remarks == ())


def test_an_unknown_action_allows_nothing():
    result = translated({"action": "PERMIT", "rules": [{}]})
    assert (result.authorization.action, result.authorization.groups) == (Action.ALLOW, ())
    assert "PERMIT" in result.remarks[0]


@pytest.mark.parametrize(("value", "want"), [("true", True), ("True", True), ("maybe", False)])
def test_dry_run(value, want):
    result = translated({"rules": [{}]}, annotations={"istio.io/dry-run": value})
    assert result.authorization.dry_run is want


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (
            [{**source(principals=[WEB]), "when": [{"key": "request.x", "values": ["1"]}]}],
            "nothing",
        ),
        ([{}, operation(methods=["GET"])], "more is denied"),
    ],
)
def test_the_remark_says_whether_a_deny_has_any_effect(rules, text):
    assert text in translated({"action": "DENY", "rules": rules}).remarks[0]
