"""The store: revisions, history, subscribers."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.core.store import HISTORY_EVENTS, Store

PODS = ("", "pods")


def named(name, namespace="shop", **more):
    return {"metadata": {"name": name, "namespace": namespace}, **more}


def test_every_write_gets_the_next_revision():
    store = Store()
    first, second = store.put(PODS, named("a")), store.put(PODS, named("b"))
    assert int(second["metadata"]["resourceVersion"]) == store.revision
    assert int(first["metadata"]["resourceVersion"]) == store.revision - 1


def test_a_stored_object_is_not_the_one_that_was_given():
    store, given = Store(), named("a")
    store.put(PODS, given)
    assert "resourceVersion" not in given["metadata"]


def test_objects_come_sorted_and_by_namespace():
    store = Store()
    for name, namespace in (("b", "x"), ("a", "y"), ("a", "x")):
        store.put(PODS, named(name, namespace))
    found = [(o["metadata"]["namespace"], o["metadata"]["name"]) for o in store.objects(PODS)]
    assert found == [("x", "a"), ("x", "b"), ("y", "a")]
    assert len(store.objects(PODS, "y")) == 1


def test_changes_since_a_revision_replay_in_order():
    store = Store()
    store.put(PODS, named("a"))
    start = store.revision
    store.put(PODS, named("a", step=2))
    store.put(PODS, named("b"))
    store.remove(PODS, "shop", "a")
    kinds = [change.kind for change in store.since(PODS, start)]
    assert kinds == ["MODIFIED", "ADDED", "DELETED"]


def test_a_deletion_carries_a_revision_of_its_own():
    store = Store()
    put = store.put(PODS, named("a"))
    last = store.remove(PODS, "shop", "a")
    assert int(last["metadata"]["resourceVersion"]) > int(put["metadata"]["resourceVersion"])
    assert store.remove(PODS, "shop", "a") is None


def test_forgotten_and_future_revisions_are_gone():
    store = Store()
    for _ in range(HISTORY_EVENTS + 1):
        store.put(PODS, named("a"))
    for revision in (1, store.revision + 1):
        with pytest.raises(ApiError) as caught:
            store.since(PODS, revision)
        assert (caught.value.code, caught.value.reason) == (410, "Expired")
    assert list(store.since(PODS, store.revision)) == []


def test_subscribers_hear_of_their_resource_until_they_leave():
    store = Store()
    pods, everything = [], []
    leave = store.subscribe(PODS, pods.append)
    store.subscribe(None, everything.append)
    store.put(PODS, named("a"))
    store.put(("", "services"), named("a"))
    leave()
    store.put(PODS, named("b"))
    assert [c.object["metadata"]["name"] for c in pods] == ["a"]
    assert [c.key[1] for c in everything] == ["pods", "services", "pods"]


def test_a_line_is_encoded_once_for_all_watchers():
    store, changes = Store(), []
    store.subscribe(PODS, changes.append)
    store.put(PODS, named("a"))
    assert changes[0].encoded("ADDED") is changes[0].encoded("ADDED")
