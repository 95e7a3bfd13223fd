"""A watch: what a client with its selectors sees of the changes."""

from __future__ import annotations

import msgspec
import pytest

from ambientctl.local.apiserver.core import watch as watch_module
from ambientctl.local.apiserver.core.selectors import parse_labels, predicate
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.core.watch import Watch, WatchOptions
from tests.unit.ambientctl.local.worlds import service


def watching(world, labels="", revision=None, namespace="", **options):
    revision = str(world.cluster.store.revision) if revision is None else revision
    wanted = predicate(parse_labels(labels), ())
    kind = world.kind("v1", "Service")
    return Watch(kind, world.cluster.store, WatchOptions(namespace, wanted, revision, **options))


def seen(watch):
    events = [msgspec.json.decode(line) for line in watch.lines]
    watch.lines.clear()
    return [(e["type"], e["object"].get("metadata", {}).get("name", "")) for e in events]


def label(world, obj, **labels):
    return world.update({**obj, "metadata": {**obj["metadata"], "labels": labels}})


def test_live_changes_come_in_order(world):
    watch = watching(world)
    made = world.create(service())
    label(world, made, a="b")
    world.delete(made)
    assert seen(watch) == [("ADDED", "web"), ("MODIFIED", "web"), ("DELETED", "web")]


def test_from_the_start_everything_is_added_first(world):
    world.create(service("a"))
    for revision in ("", "0"):
        assert seen(watching(world, revision=revision)) == [("ADDED", "a")]


def test_from_a_revision_the_missed_changes_come_first(world):
    start = str(world.cluster.store.revision)
    made = world.create(service("a"))
    world.delete(made)
    assert seen(watching(world, revision=start)) == [("ADDED", "a"), ("DELETED", "a")]


def test_an_object_that_enters_or_leaves_the_selection_is_added_or_deleted(world):
    watch = watching(world, labels="app=web")
    made = world.create(service())
    made = label(world, made, app="web")
    made = label(world, made, app="web", more="x")
    label(world, made, app="api")
    assert seen(watch) == [("ADDED", "web"), ("MODIFIED", "web"), ("DELETED", "web")]


def test_other_namespaces_are_not_seen(world):
    watch = watching(world, namespace="other")
    world.create(service())
    assert seen(watch) == []


def test_a_closed_watch_hears_nothing(world):
    watch = watching(world)
    watch.close()
    world.create(service())
    assert seen(watch) == []


def test_the_reader_is_woken(world):
    watch, woken = watching(world), []
    watch.wake = lambda: woken.append(True)
    world.create(service())
    assert woken == [True]


def test_bookmarks_only_for_those_who_want_them(world):
    assert watching(world).bookmark() is None
    bookmark = msgspec.json.decode(watching(world, bookmarks=True).bookmark())
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["kind"] == "Service"
    assert bookmark["object"]["metadata"]["resourceVersion"] == str(world.cluster.store.revision)


def test_initial_events_end_with_an_annotated_bookmark(world):
    world.create(service())
    watch = watching(world, revision="", bookmarks=True, initial_events=True)
    first, last = (msgspec.json.decode(line) for line in watch.lines)
    assert first["type"] == "ADDED"
    assert last["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_slow_reader_is_told_to_list_again(world, monkeypatch):
    monkeypatch.setattr(watch_module, "BACKLOG_LINES", 2)
    watch = watching(world)
    for name in "abcd":
        world.create(service(name))
    *_, last = (msgspec.json.decode(line) for line in watch.lines)
    assert (last["type"], last["object"]["code"]) == ("ERROR", 410)
    assert watch.ended


@pytest.mark.parametrize(("revision", "code"), [("99999", 410), ("x", 400)])
def test_a_revision_that_cannot_be(world, revision, code):
    with pytest.raises(ApiError) as caught:
        watching(world, revision=revision)
    assert caught.value.code == code
