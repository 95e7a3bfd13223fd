"""Who refuses plaintext: the table of modes and ports."""

import pytest

from ambient.api.policy import Match, MatchKind, Scope, StringMatch
from ambient.kube.core.objects import PeerAuthentication, decode
from istiod_lite.core import peer_authentication as pa
from tests.unit.istiod_lite.objects import peer_authentication

ANY = (StringMatch(MatchKind.PRESENCE),)
ANONYMOUS = Match(not_principals=ANY)
STATIC = "istio-system/istio_converted_static_strict"
OWN = "shop/converted_peer_authentication_w"


def policy(mode=None, ports=None, namespace="shop", app="a", **more):
    return decode(
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
def test_inherited(mesh, namespace, want):
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
def test_every_reference_is_to_a_policy_that_exists(mode, ports, inherited, key):
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
