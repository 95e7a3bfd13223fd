"""Who refuses plaintext: the table of modes and ports."""

from ipaddress import ip_address

import pytest

from ambient.api.policy import Match, MatchKind, Scope, StringMatch
from ambient.api.spiffe import Identity
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.kube.core.objects import PeerAuthentication
from ambient.kube.core.objects import decode as read
from ambient.policy.core.decide import Connection, decide
from ambient.state.core.mesh import MeshState
from istiod_lite.core import peer_authentication as pa
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from tests.unit.istiod_lite.objects import peer_authentication, pod

ANY = (StringMatch(MatchKind.PRESENCE),)
ANONYMOUS = Match(not_principals=ANY)
STATIC = "istio-system/istio_converted_static_strict"
OWN = "shop/converted_peer_authentication_w"


def policy(mode=None, ports=None, namespace="shop", app="a", **more):
    return read(
        peer_authentication("w", namespace, mode, app=app, ports=ports, **more), PeerAuthentication
    )


@pytest.mark.parametrize(
    ("mesh", "namespace", "want"),
    [
        (None, None, False),
        ("STRICT", None, True),
        ("STRICT", "UNSET", True),
        ("STRICT", "PERMISSIVE", False),
        ("STRICT", "DISABLE", False),
        ("PERMISSIVE", "STRICT", True),
        ("STRIKT", None, True),
    ],
)
def test_pain_47_what_is_inherited(mesh, namespace, want):
    policies = [policy(mode) if mode else None for mode in (mesh, namespace)]
    assert pa.inherited_strict(*policies) is want


@pytest.mark.parametrize(
    ("mode", "ports", "inherited", "key"),
    [
        ("STRICT", {80: "PERMISSIVE"}, False, OWN),
        ("STRICT", {80: "DISABLE"}, False, OWN),
        ("STRICT", {80: "STRICT", 81: "UNSET"}, False, STATIC),
        ("STRICT", None, False, STATIC),
        ("PERMISSIVE", {80: "STRICT"}, False, OWN),
        ("PERMISSIVE", {80: "STRICT"}, True, OWN),  # Istio leaves this port open
        ("DISABLE", {80: "STRICT"}, True, OWN),
        ("PERMISSIVE", {80: "DISABLE"}, True, None),
        ("PERMISSIVE", None, True, None),
        (None, {80: "PERMISSIVE"}, True, OWN),
        (None, {80: "DISABLE"}, True, OWN),
        (None, {80: "STRICT"}, True, STATIC),
        (None, {80: "STRICT"}, False, OWN),
        (None, {80: "PERMISSIVE"}, False, None),
        ("UNSET", None, True, STATIC),
        ("UNSET", None, False, None),
    ],
)
def test_pain_47_every_mode_and_port_refers_to_a_policy_that_exists(mode, ports, inherited, key):
    own = policy(mode, ports)
    assert pa.policy_key(own, inherited, "istio-system") == key
    converted = pa.converted(own, inherited)
    assert (converted.key if converted else None) == (OWN if key == OWN else None)


def test_strict_with_exceptions():
    assert pa.converted(policy("STRICT", {9090: "PERMISSIVE", 80: "DISABLE"}), False).groups == (
        (
            (ANONYMOUS,),
            (Match(not_destination_ports=(80,)),),
            (Match(not_destination_ports=(9090,)),),
        ),
    )


def test_inherited_strict_with_an_exception():
    assert pa.converted(policy(None, {9090: "PERMISSIVE"}), True).groups == (
        ((Match(not_destination_ports=(9090,)),), (ANONYMOUS,)),
    )


def test_permissive_with_strict_ports():
    result = pa.converted(policy("PERMISSIVE", {9090: "STRICT", 8080: "STRICT"}), False)
    assert result.scope is Scope.WORKLOAD_SELECTOR
    assert result.groups == tuple(
        ((Match(not_principals=ANY, destination_ports=(port,)),),) for port in (8080, 9090)
    )


@pytest.mark.parametrize(
    ("modes", "decides"),
    [
        ({"shop": "STRICT", "istio-system": "PERMISSIVE"}, "shop"),
        ({"istio-system": "STRICT"}, "istio-system"),
        ({"shop": "UNSET", "istio-system": "STRICT"}, "istio-system"),
        ({"other": "STRICT"}, None),
    ],
)
def test_the_nearest_object_that_says_a_mode_decides(modes, decides):
    every = [policy(mode, namespace=where, app=None) for where, mode in modes.items()]
    found = pa.deciding(every, "shop", {"app": "a"}, "istio-system")
    assert (found and found.metadata.namespace) == decides
    own = policy("STRICT")
    assert pa.deciding([*every, own], "shop", {"app": "a"}, "istio-system") is own


def test_the_oldest_of_several_counts():
    young, old = policy("STRICT", created="2026-02-01"), policy("PERMISSIVE", created="2026-01-01")
    assert pa.oldest([young, old]) is old
    assert pa.oldest([]) is None


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (policy("STRIKT"), "STRIKT"),
        (policy("STRICT", {80: "STRICT"}, app=None), "selector"),
        (policy("STRICT", {"http": "STRICT"}), "http"),
    ],
)
def test_remarks(made, text):
    assert text in pa.remarks(made)[0]


@pytest.mark.parametrize("mesh", [None, "STRICT", "PERMISSIVE", "DISABLE", "UNSET"])
@pytest.mark.parametrize("namespace", [None, "STRICT", "PERMISSIVE", "DISABLE", "UNSET"])
@pytest.mark.parametrize("own", [None, "STRICT", "PERMISSIVE", "DISABLE", "UNSET"])
@pytest.mark.parametrize("port", [None, "STRICT", "PERMISSIVE", "DISABLE", "UNSET"])
def test_pain_47_truth_table_of_plaintext(mesh, namespace, own, port):
    """The most specific mode that is set decides, whatever the others are; judged as tunnels do."""
    decided = next(
        (one for one in (port, own, namespace, mesh) if one not in (None, "UNSET")), "PERMISSIVE"
    )
    index = Index()
    index.apply("Pod", pod("web", "shop", "10.0.0.1", labels={"app": "a"}))
    for name, where, mode, app in (
        ("m", "istio-system", mesh, None),
        ("n", "shop", namespace, None),
    ):
        if mode:
            index.apply("PeerAuthentication", peer_authentication(name, where, mode, app=app))
    ports = {8080: port} if port else None
    if own or ports:
        made = peer_authentication("w", "shop", own, app="a", ports=ports)
        index.apply("PeerAuthentication", made)
    state = MeshState()
    state.apply(ADDRESS_TYPE, index.workloads)
    state.apply(AUTHORIZATION_TYPE, index.authorizations)
    workload = index.workloads["Kubernetes//Pod/shop/web"]
    found = state.policies_for(workload)
    assert not found.missing
    ip = ip_address("10.0.0.9")
    verdict = decide(found, Connection(None, ip, workload.addresses[0], 8080))
    assert verdict.allowed is (decided != "STRICT")
    peer = Identity("cluster.local", "x", "y")
    assert decide(found, Connection(peer, ip, workload.addresses[0], 8080)).allowed


@pytest.mark.parametrize(
    ("made", "inherited", "met", "words"),
    [
        (policy("STRICT"), False, True, "Plaintext is refused"),
        (policy("PERMISSIVE"), True, True, "Plaintext is let in"),
        (policy(None), True, True, "Plaintext is refused (inherited)"),
        (policy("STRICT", {80: "PERMISSIVE", 90: "DISABLE"}), False, True, "on ports 80, 90"),
        (policy("STRIKT"), False, True, "taken as STRICT"),
    ],
)
def test_pain_47_the_status_says_the_mode_that_it_comes_to(made, inherited, met, words):
    found = pa.condition(made, inherited, None)
    assert (found.met, words in found.message) == (met, True)


def test_pain_47_a_policy_that_does_not_count_says_which_one_does():
    index = Index()
    index.apply("PeerAuthentication", peer_authentication("old", "shop", "STRICT"))
    young = peer_authentication("young", "shop", "PERMISSIVE", created="2026-05-05")
    index.apply("PeerAuthentication", young)
    ref = ObjectRef("PeerAuthentication", ObjectKey("shop", "young"))
    (found,) = index.wanted(ref)
    assert (found.met, found.reason) == (False, "Ignored")
    assert "old" in found.message
    index.remove("PeerAuthentication", "shop", "old")
    assert index.wanted(ref)[0].met
