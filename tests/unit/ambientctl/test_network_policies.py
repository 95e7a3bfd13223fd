"""NetworkPolicies as Kubernetes defines them: one row per sentence of its documentation."""

import pytest
import yaml

from ambientctl.network_policies import Pod, closed, pod_of

CLIENT = Pod("shop", "client", ("10.244.1.2",), {"app": "client"}, {"team": "a"})
SERVER = Pod("shop", "server", ("10.244.2.2",), {"app": "server"}, {"team": "a"}, {"web": 8080})
STRANGER = Pod("other", "client", ("10.244.3.2",), {"app": "client"}, {"team": "b"})
OUTSIDE = Pod(ips=("192.0.2.7",))


def policy(spec, name="p", namespace="shop"):
    loaded = yaml.safe_load(spec) if isinstance(spec, str) else spec
    return {"metadata": {"name": name, "namespace": namespace}, "spec": loaded}


def ingress(rules, selector="{matchLabels: {app: server}}"):
    return policy(f"{{podSelector: {selector}, policyTypes: [Ingress], ingress: {rules}}}")


FROM_CLIENT = "from: [{podSelector: {matchLabels: {app: client}}}]"


@pytest.mark.parametrize(
    ("policies", "client", "passes"),
    [
        ([], CLIENT, True),  # nothing selects the pod: open
        ([ingress("[]")], CLIENT, False),  # selected, and no rule
        ([ingress("[{}]")], OUTSIDE, True),  # an empty rule lets everybody in
        ([ingress("[]", "{matchLabels: {app: another}}")], CLIENT, True),
        ([ingress("[]", "{}")], CLIENT, False),  # an empty selector is every pod
        ([policy("{podSelector: {}, ingress: []}", namespace="other")], CLIENT, True),
        ([ingress(f"[{{{FROM_CLIENT}}}]")], CLIENT, True),
        ([ingress(f"[{{{FROM_CLIENT}}}]")], STRANGER, False),  # of its own namespace only
        ([ingress("[{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]")], STRANGER, True),
        ([ingress("[{from: [{namespaceSelector: {}}]}]")], OUTSIDE, False),  # no pod
        (
            [ingress("[{from: [{namespaceSelector: {matchLabels: {team: b}}, "
                     "podSelector: {matchLabels: {app: x}}}]}]")],
            STRANGER,
            False,  # both selectors of one peer
        ),
        ([ingress("[{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]")], OUTSIDE, True),
        (
            [ingress("[{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.7/32]}}]}]")],
            OUTSIDE,
            False,
        ),
        ([ingress("[{ports: [{port: 9080}]}]")], CLIENT, False),
        ([ingress("[{ports: [{port: 15008}]}]")], CLIENT, True),
        ([ingress("[{ports: [{port: 15000, endPort: 15010}]}]")], CLIENT, True),
        ([ingress("[{ports: [{port: 15008, protocol: UDP}]}]")], CLIENT, False),
        ([ingress("[{ports: [{protocol: TCP}]}]")], CLIENT, True),
        ([ingress("[]"), ingress("[{}]")], CLIENT, True),  # rules of all policies add up
        ([policy("{podSelector: {}, policyTypes: [Egress]}")], STRANGER, True),
    ],
)  # fmt: skip
def test_what_comes_in_at_15008(policies, client, passes):
    assert (closed(policies, client, SERVER, 15008) is None) is passes


def test_what_goes_out_counts_too():
    out = policy("{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], "
                 "egress: [{ports: [{port: 53}]}]}", "dns-only")  # fmt: skip
    found = closed([out], CLIENT, SERVER, 15008)
    assert found.by == "NetworkPolicy shop/dns-only"
    assert "to port 15008 out" in found.what
    # An egress field brings the direction, where no types are named.
    assert closed([policy("{podSelector: {}, egress: []}")], CLIENT, SERVER, 15008)


def test_a_named_port_is_that_of_the_pod():
    named = ingress("[{ports: [{port: web}]}]")
    assert closed([named], CLIENT, SERVER, 8080) is None
    assert closed([named], CLIENT, SERVER, 15008) is not None


def test_the_remedy_is_the_smallest_change():
    near = ingress(f"[{{{FROM_CLIENT}, ports: [{{port: 9080}}]}}]")
    assert closed([near], CLIENT, SERVER, 15008).change == (
        "add {protocol: TCP, port: 15008} to the ports of spec.ingress[0] of NetworkPolicy shop/p"
    )
    far = ingress("[]")
    assert closed([far], STRANGER, SERVER, 15008).change == (
        "add a rule from pods of namespace other with port 15008 in NetworkPolicy shop/p"
    )
    assert "from ipBlock 192.0.2.7 with" in closed([far], OUTSIDE, SERVER, 15008).change


@pytest.mark.parametrize(
    "spec",
    [
        None, 7, {"podSelector": 7}, {"podSelector": {}, "ingress": 7},
        {"podSelector": {}, "ingress": [None, {"from": 7}, {"from": [None]}]},
        {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "x"}}], "ports": [None]}]},
        {"podSelector": {}, "ingress": [{"ports": [{"port": []}, {"port": 1, "endPort": "x"}]}]},
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}},
    ],
)  # fmt: skip
def test_what_is_malformed_opens_nothing_and_raises_nothing(spec):
    closed([policy(spec)], CLIENT, SERVER, 15008)


def test_a_pod_as_policies_see_it():
    pod = {
        "metadata": {"name": "server", "namespace": "shop", "labels": {"app": "server"}},
        "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}, {}]}]},
        "status": {"podIP": "10.244.2.2"},
    }
    namespace = {"metadata": {"name": "shop", "labels": {"team": "a"}}}
    assert pod_of(pod, namespace) == SERVER
    assert pod_of({"metadata": {"name": "x"}}, None) == Pod("", "x")
