"""What is written to a status, and when nothing needs to be."""

import pytest

from istiod_lite.core import statuses
from istiod_lite.core.statuses import Condition, ParentStatus

NOW, BEFORE = "2026-02-02T00:00:00Z", "2026-01-01T00:00:00Z"
TRUE = Condition("istio.io/WaypointBound", True, "WaypointAccepted", "text")
OURS = {
    "type": "istio.io/WaypointBound",
    "status": "True",
    "reason": "WaypointAccepted",
    "message": "text",
    "lastTransitionTime": BEFORE,
}
THEIRS = {"type": "Ready", "status": "True", "reason": "r", "message": "m"}


def have(*conditions, kind="Service", generation=0, parents=()):
    status = {"conditions": list(conditions), "parents": list(parents)}
    metadata = {"name": "x", "resourceVersion": "7"}
    if generation:
        metadata["generation"] = generation
    return statuses.reported(kind, {"metadata": metadata, "status": status})


def test_only_our_conditions_are_read():
    assert have(THEIRS, OURS).conditions == (OURS,)


@pytest.mark.parametrize(
    "status", [None, 7, {"conditions": "x"}, {"conditions": [1]}, {"parents": {}}]
)
def test_a_malformed_status_counts_as_none(status):
    for kind in ("Service", "HTTPRoute"):
        found = statuses.reported(kind, {"metadata": {"name": "x"}, "status": status})
        assert (found.conditions, found.parents) == ((), ())


@pytest.mark.parametrize(
    ("old", "generation", "same"),
    [
        ([OURS], 0, True),
        ([THEIRS, OURS], 0, True),
        ([], 0, False),
        ([{**OURS, "lastTransitionTime": NOW}], 0, True),
        ([{**OURS, "message": "other"}], 0, False),
        ([{**OURS, "status": "False"}], 0, False),
        ([OURS], 3, False),
        ([{**OURS, "observedGeneration": 3}], 3, True),
        ([{**OURS, "observedGeneration": 2}], 3, False),
    ],
)
def test_when_conditions_say_the_same(old, generation, same):
    assert statuses.says_the_same(have(*old, generation=generation), (TRUE,)) is same


def test_conditions_of_ours_that_are_not_wanted_any_more_differ():
    assert not statuses.says_the_same(have(OURS), ())
    assert statuses.says_the_same(have(THEIRS), ())


def test_a_condition_whose_status_stays_keeps_its_time():
    changed = TRUE._replace(message="other")
    assert statuses.render(have(OURS), (changed,), NOW)[0]["lastTransitionTime"] == BEFORE
    (turned,) = statuses.render(have(OURS, generation=4), (TRUE._replace(met=False),), NOW)
    assert turned == {
        "type": "istio.io/WaypointBound",
        "status": "False",
        "reason": "WaypointAccepted",
        "message": "text",
        "lastTransitionTime": NOW,
        "observedGeneration": 4,
    }


PARENT = {"group": "", "kind": "Service", "name": "web"}
ACCEPTED = Condition("Accepted", True, "Accepted", "fine")
OTHER = {"controllerName": "somebody.else/x", "parentRef": PARENT, "conditions": []}


def test_parents_of_a_route():
    wanted = (ParentStatus(PARENT, (ACCEPTED,)),)
    before = have(kind="HTTPRoute", generation=2, parents=[OTHER])
    assert not statuses.says_the_same(before, wanted)
    made = statuses.render_parents(before, wanted, BEFORE)
    after = have(kind="HTTPRoute", generation=2, parents=[OTHER, *made])
    assert statuses.says_the_same(after, wanted)
    assert after.ours == made
    assert statuses.render_parents(after, wanted, NOW) == made
    assert not statuses.says_the_same(after, ())
    assert statuses.says_the_same(before, ())
