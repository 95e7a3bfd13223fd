"""Conditions on Services, ServiceEntries and WorkloadEntries."""

import pytest

from ambient.kube.core import objects
from ambient.kube.core.networking_objects import ServiceEntry
from istiod_lite.core import conditions
from istiod_lite.core.mesh_config import EntryVisibility
from istiod_lite.core.waypoints import UNBOUND, Binding, Reason, Wish
from tests.unit.istiod_lite.core.test_waypoints import AT, CANARY, WP, bound
from tests.unit.istiod_lite.objects import service_entry

BOUND = Binding(AT, WP, Reason.ACCEPTED)


def said(found):
    return [(one.type, one.met, one.reason) for one in found]


@pytest.mark.parametrize(
    ("binding", "want"),
    [
        (UNBOUND, []),
        (Binding(None, None, Reason.OPTED_OUT), []),
        (BOUND, [(True, "WaypointAccepted")]),
        (Binding(None, WP, Reason.NOT_READY), [(False, "WaypointIsNotReady")]),
        (Binding(None, WP, Reason.DENIED), [(False, "AttachmentDenied")]),
        (Binding(None, WP, Reason.OTHER_TRAFFIC, True), [(False, "UnsupportedTrafficType")]),
        (Binding(None, WP, Reason.OTHER_NAMESPACE), [(False, "CrossNamespaceWaypointForbidden")]),
    ],
)
def test_of_a_service(binding, want):
    found = conditions.of_service(binding, True, closed=False)
    assert said(found) == [("istio.io/WaypointBound", *one) for one in want]


@pytest.mark.parametrize(
    ("binding", "want"),
    [
        (UNBOUND, []),
        (BOUND, [(True, "WaypointAccepted")]),
        (Binding(None, WP, Reason.NOT_READY, True), [(False, "WaypointIsNotReady")]),
        (Binding(None, WP, Reason.OTHER_TRAFFIC, True), []),  # meant for the services there
        (Binding(None, WP, Reason.OTHER_TRAFFIC), [(False, "UnsupportedTrafficType")]),
    ],
)
def test_of_a_workload(binding, want):
    found = conditions.of_workload(binding, closed=False)
    assert said(found) == [("istio.io/WaypointBound", *one) for one in want]


@pytest.mark.parametrize(
    ("binding", "ingress", "closed", "words"),
    [
        (BOUND, True, False, "through waypoint shop/wp; ingress gateways do use it"),
        (BOUND, False, False, "ingress gateways do not use it"),
        (Binding(None, WP, Reason.NOT_READY), True, False, "traffic goes past the waypoint"),
        (Binding(AT, WP, Reason.NOT_READY), True, True, "connections are refused"),
    ],
)
def test_pain_17_the_text_says_what_happens_to_traffic(binding, ingress, closed, words):
    (found,) = conditions.of_service(binding, ingress, closed=closed)
    assert words in found.message


@pytest.mark.parametrize(
    ("weight", "words"),
    [("5", "5 % of them through canary shop/canary"), ("x", "CanaryInvalidWeight")],
)
def test_what_becomes_of_a_canary(weight, words):
    asked = bound(Wish(WP, False, CANARY, weight))
    (found,) = conditions.of_service(asked, True, closed=False)
    assert (found.met, found.reason) == (True, "WaypointAccepted")
    assert words in found.message


def entry(*hosts, annotations=None):
    raw = service_entry("e", "shop", *hosts)
    raw["metadata"]["annotations"] = annotations or {}
    return objects.decode(raw, ServiceEntry)


RACE = {"istio.io/connect-strategy": "RACE_FIRST_TCP_CONNECT"}
MISSING, SEEN = "istio.io/WaypointMissing", "istio.io/VisibilityApplied"


@pytest.mark.parametrize(
    ("made", "binding", "visibility", "want"),
    [
        (entry("a.x"), UNBOUND, None, []),
        (entry("*.x"), UNBOUND, None, [(MISSING, True, "NoWaypointForWildcardService")]),
        (
            entry("a.x", annotations=RACE),
            UNBOUND,
            None,
            [(MISSING, True, "NoWaypointForRacingConnectStrategy")],
        ),
        (entry("*.x"), BOUND, None, [("istio.io/WaypointBound", True, "WaypointAccepted")]),
        (entry("a.x"), UNBOUND, EntryVisibility.PUBLIC, [(SEEN, True, "Public")]),
        (entry("a.x"), UNBOUND, EntryVisibility.NAMESPACE, [(SEEN, True, "Namespace")]),
        (entry("a.x"), UNBOUND, EntryVisibility.NONE, [(SEEN, True, "None")]),
    ],
)
def test_of_a_service_entry(made, binding, visibility, want):
    found = conditions.of_entry(made, binding, True, visibility, closed=False)
    assert said(found) == want


def test_problems_of_an_object_are_said_on_it():
    (found,) = conditions.of_remarks(["one", "two"])
    assert found == ("istio.io/Accepted", False, "PartiallyInvalid", "one; two")
    assert list(conditions.of_remarks([])) == []
    assert conditions.of_unreadable("x is no y", "correct it").message == "x is no y; correct it"
