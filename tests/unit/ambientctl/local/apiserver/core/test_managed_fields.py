"""Server-side apply: who owns what, and what happens to fields that nobody wants any more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.local.apiserver.core.kinds import BUILTIN
from ambientctl.local.apiserver.core.managed_fields import (
    Write,
    apply,
    from_fields_v1,
    record_update,
    to_fields_v1,
)
from ambientctl.local.apiserver.core.status import ApiError

KINDS = {kind.kind: kind for kind in BUILTIN}
POD, CONFIG_MAP = KINDS["Pod"], KINDS["ConfigMap"]


def config(**data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}


def applied(live, wanted, manager, *, force=False, kind=CONFIG_MAP):
    return apply(kind, live, wanted, Write(manager, "2026-01-01T00:00:00Z", force=force))


def test_the_first_apply_creates_and_records_its_manager():
    made = applied(None, config(a="1"), "me")
    (entry,) = made["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("me", "Apply")
    assert entry["fieldsV1"] == {"f:data": {"f:a": {}}}


def test_what_the_same_manager_applies_no_more_is_removed():
    live = applied(None, config(a="1", b="2"), "me")
    assert applied(live, config(a="1"), "me")["data"] == {"a": "1"}


def test_what_somebody_else_owns_too_stays():
    live = applied(None, config(a="1", b="2"), "me")
    live = applied(live, config(b="2"), "you")
    assert applied(live, config(a="1"), "me")["data"] == {"a": "1", "b": "2"}


def test_another_value_for_an_owned_field_is_a_conflict_that_names_it():
    live = applied(None, config(a="1"), "me")
    with pytest.raises(ApiError) as caught:
        applied(live, config(a="2"), "you")
    assert caught.value.code == 409
    assert caught.value.message == 'Apply failed with 1 conflict: conflict with "me": .data.a'
    assert caught.value.details["causes"][0]["reason"] == "FieldManagerConflict"


def test_force_takes_the_field_away():
    live = applied(None, config(a="1", b="1"), "me")
    live = applied(live, config(a="2"), "you", force=True)
    assert live["data"] == {"a": "2", "b": "1"}
    owners = {e["manager"]: e["fieldsV1"] for e in live["metadata"]["managedFields"]}
    assert owners == {"you": {"f:data": {"f:a": {}}}, "me": {"f:data": {"f:b": {}}}}


def test_an_update_owns_what_it_changed():
    old = config(a="1", b="1")
    new = config(a="2", b="1")
    (entry,) = record_update(CONFIG_MAP, old, new, Write("editor", "now"))
    assert (entry["operation"], entry["fieldsV1"]) == ("Update", {"f:data": {"f:a": {}}})


def test_an_unchanged_apply_changes_nothing():
    live = applied(None, config(a="1"), "me")
    again = apply(CONFIG_MAP, live, config(a="1"), Write("me", "2027-01-01T00:00:00Z"))
    assert again == live


def pod(*containers):
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers)}}


def test_lists_with_keys_merge_by_item():
    live = applied(None, pod({"name": "a", "image": "a:1"}), "me", kind=POD)
    live = applied(live, pod({"name": "b", "image": "b:1"}), "you", kind=POD)
    assert [c["name"] for c in live["spec"]["containers"]] == ["a", "b"]
    live = applied(live, pod({"name": "c", "image": "c:1"}), "me", kind=POD)
    assert [c["name"] for c in live["spec"]["containers"]] == ["b", "c"]


def test_managed_fields_in_the_configuration_are_refused():
    wanted = config(a="1")
    wanted["metadata"]["managedFields"] = [{}]
    with pytest.raises(ApiError, match="must be nil"):
        applied(None, wanted, "me")


elements = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"'])


@given(st.frozensets(st.lists(elements, min_size=1, max_size=3).map(tuple), max_size=5))
def test_fields_survive_the_wire(fields):
    # A field that contains another one is no leaf.
    leaves = frozenset(f for f in fields if not any(g != f and g[: len(f)] == f for g in fields))
    assert from_fields_v1(to_fields_v1(leaves)) == leaves


maps = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12"), max_size=4)


@given(first=maps, second=maps)
def test_a_lone_manager_gets_exactly_what_it_applies(first, second):
    live = applied(applied(None, config(**first), "me"), config(**second), "me")
    assert live.get("data", {}) == second
