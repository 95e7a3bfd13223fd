"""Who may have which identity: every refusal of the node check."""

import pytest

from ambient.api.spiffe import Identity
from ambient.kube.core.networking_objects import WorkloadEntry
from ambient.kube.core.objects import Pod, decode
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.inputs import Inputs
from istiod_lite.core.issue import Caller, RefusedError, caller_of, impersonated
from tests.unit.istiod_lite.objects import pod, workload_entry

ZTUNNEL = Caller("istio-system", "ztunnel", "zt-1", "zt-uid")
WEB = "spiffe://cluster.local/ns/shop/sa/web"


@pytest.fixture
def inputs():
    made = Inputs()
    failed = pod("failed", "shop", "", account="failed", node="n1")
    failed["status"]["phase"] = "Failed"
    starting = pod("starting", "shop", "", account="starting", node="n1")
    for raw in (
        pod("zt-1", "istio-system", "10.0.0.1", account="ztunnel", node="n1", uid="zt-uid"),
        pod("web", "shop", "10.1.0.1", account="web", node="n1"),
        pod("api", "shop", "10.2.0.1", account="api", node="n2"),
        failed,
        starting,
    ):
        made.pods.put(
            ObjectKey(raw["metadata"]["namespace"], raw["metadata"]["name"]), decode(raw, Pod)
        )
    return made


def ask(inputs, caller, requested):
    return impersonated(
        caller,
        requested,
        inputs,
        trust_domain="cluster.local",
        trusted_accounts={"istio-system/ztunnel"},
    )


def test_a_pod_of_the_callers_node(inputs):
    assert ask(inputs, ZTUNNEL, WEB) == Identity("cluster.local", "shop", "web")


def test_a_pod_that_has_no_address_yet(inputs):
    assert ask(inputs, ZTUNNEL, "spiffe://cluster.local/ns/shop/sa/starting")


@pytest.mark.parametrize(
    ("caller", "requested", "reason"),
    [
        (Caller("shop", "web", "web", "uid-web"), WEB, "may not ask"),
        (ZTUNNEL, "spiffe://cluster.local/ns/shop/sa/api", "no pod on node n1"),
        (ZTUNNEL, "spiffe://cluster.local/ns/shop/sa/failed", "no pod on node n1"),
        (ZTUNNEL, "spiffe://other/ns/shop/sa/web", "trust domain"),
        (ZTUNNEL, "spiffe://cluster.local/ns/shop/sa/web/extra", "is not"),
        (ZTUNNEL, "", "is not"),
        (ZTUNNEL._replace(pod_name="", pod_uid=""), WEB, "not bound"),
        (ZTUNNEL._replace(pod_uid=""), WEB, "not bound"),
        (ZTUNNEL._replace(pod_uid="older"), WEB, "not the one"),
        (ZTUNNEL._replace(pod_name="zt-9"), WEB, "not known"),
    ],
)
def test_refusals(inputs, caller, requested, reason):
    with pytest.raises(RefusedError, match=reason):
        ask(inputs, caller, requested)


def test_pain_33_the_refusal_names_both_accounts(inputs):
    caller = Caller("mesh", "node-tunnel", "zt-1", "zt-uid")
    with pytest.raises(RefusedError) as caught:
        ask(inputs, caller, WEB)
    assert "mesh/node-tunnel" in str(caught.value)
    assert "istio-system/ztunnel" in str(caught.value)
    assert "CA_TRUSTED_NODE_ACCOUNTS" in str(caught.value)
    assert caught.value.public


@pytest.mark.parametrize(("node", "granted"), [("n1", True), ("n2", False), (None, False)])
def test_a_workload_entry_counts_on_the_node_that_it_names(inputs, node, granted):
    raw = workload_entry("billing", "shop", "10.1.0.9", serviceAccount="billing")
    raw["metadata"]["annotations"] = {"ambient.istio.io/node": node} if node else {}
    inputs.workload_entries.put(ObjectKey("shop", "billing"), decode(raw, WorkloadEntry))
    wanted = "spiffe://cluster.local/ns/shop/sa/billing"
    if granted:
        assert ask(inputs, ZTUNNEL, wanted) == Identity("cluster.local", "shop", "billing")
        return
    with pytest.raises(RefusedError, match="no pod on node n1"):
        ask(inputs, ZTUNNEL, wanted)


def test_a_borrowed_pod_name_does_not_help(inputs):
    raw = pod("zt-1", "istio-system", "10.0.0.1", account="other", node="n1", uid="zt-uid")
    inputs.pods.put(ObjectKey("istio-system", "zt-1"), decode(raw, Pod))
    with pytest.raises(RefusedError, match="does not run as"):
        ask(inputs, ZTUNNEL, WEB)


USER = {"username": "system:serviceaccount:shop:web", "groups": ["system:serviceaccounts"]}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, "not valid"),
        ({"authenticated": False, "error": "expired"}, "expired"),
        ({"authenticated": "true", "user": USER}, "not valid"),
        ({"authenticated": True, "user": USER, "audiences": ["api"]}, "not for istio-ca"),
        ({"authenticated": True, "user": {**USER, "groups": []}}, "no service account"),
        ({"authenticated": True, "user": {**USER, "username": "admin"}}, "no service account"),
        (
            {"authenticated": True, "user": {**USER, "username": "system:serviceaccount:a:b:c"}},
            "no service account",
        ),
    ],
)
def test_token_reviews_that_do_not_count(status, reason):
    with pytest.raises(RefusedError, match=reason):
        caller_of(status, "istio-ca")


def test_a_token_review_that_counts():
    extra = {
        "authentication.kubernetes.io/pod-name": ["p"],
        "authentication.kubernetes.io/pod-uid": ["u"],
    }
    status = {"authenticated": True, "user": {**USER, "extra": extra}, "audiences": ["istio-ca"]}
    assert caller_of(status, "istio-ca") == Caller("shop", "web", "p", "u")
