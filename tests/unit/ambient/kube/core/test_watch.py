"""List-then-watch without a server: what comes in, which events come out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.kube.core.watch import EventKind, Follower, LineBuffer, WatchBroken


def pod(name, version, **labels):
    metadata = {"namespace": "shop", "name": name, "resourceVersion": version, "labels": labels}
    return {"metadata": metadata}


def line(kind, obj):
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def seen(events):
    return [(e.kind.value, e.object.get("metadata", {}).get("name")) for e in events]


def test_first_list_ends_with_synced():
    follower = Follower()
    events = list(follower.relisted([pod("a", "1"), pod("b", "2")], "2"))
    assert seen(events) == [("ADDED", "a"), ("ADDED", "b"), ("SYNCED", None)]
    assert follower.resource_version == "2"


def test_second_list_tells_only_the_differences():
    follower = Follower()
    list(follower.relisted([pod("a", "1"), pod("b", "2"), pod("c", "3")], "3"))
    events = list(follower.relisted([pod("a", "1"), pod("b", "7"), pod("d", "8")], "9"))
    assert seen(events) == [("DELETED", "c"), ("MODIFIED", "b"), ("ADDED", "d")]
    assert events[1].old == pod("b", "2")


def test_events_carry_the_object_before():
    follower = Follower()
    list(follower.relisted([pod("a", "1")], "1"))
    events = list(follower.feed(line("MODIFIED", pod("a", "2")) + line("DELETED", pod("a", "3"))))
    assert [(e.kind, e.old) for e in events] == [
        (EventKind.MODIFIED, pod("a", "1")),
        (EventKind.DELETED, pod("a", "2")),
    ]
    assert follower.objects == {}


def test_bookmark_moves_the_version_only():
    follower = Follower()
    assert list(follower.feed(line("BOOKMARK", {"metadata": {"resourceVersion": "41"}}))) == []
    assert follower.resource_version == "41"


@pytest.mark.parametrize(
    ("raw", "gone"),
    [
        (line("ERROR", {"code": 410, "message": "too old"}), True),
        (line("ERROR", {"code": 500, "message": "etcd"}), False),
        (b"not json\n", True),
        (line("SURPRISE", pod("a", "1")), True),
    ],
)
def test_broken_watch_says_whether_to_list_again(raw, gone):
    with pytest.raises(WatchBroken) as broken:
        list(Follower().feed(raw))
    assert broken.value.gone is gone


def test_managed_fields_are_not_kept():
    follower = Follower()
    obj = pod("a", "1")
    obj["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    list(follower.feed(line("ADDED", obj)))
    assert "managedFields" not in follower.objects["shop", "a"]["metadata"]


@given(
    lines=st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=8),
    cuts=st.lists(st.integers(1, 20), max_size=40),
)
def test_cutting_the_stream_differently_changes_nothing(lines, cuts):
    stream = b"".join(one + b"\n" for one in lines)
    buffer, got, rest = LineBuffer(), [], stream
    for cut in cuts:
        got += buffer.feed(rest[:cut])
        rest = rest[cut:]
    got += buffer.feed(rest)
    assert got == LineBuffer().feed(stream)
