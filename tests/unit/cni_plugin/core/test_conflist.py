"""Chaining ourselves into the runtime's configuration, and out of it again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ambient.api.errors import MeshError
from cni_plugin.core.conflist import NO_EDIT, NoConflistError, active, insert, insert_owned, remove

ENTRY = {"if_agent_absent": "fail"}
OURS = {"type": "ambient-cni", **ENTRY}
PTP = {"type": "ptp", "ipam": {"type": "host-local"}}
LIST = {"cniVersion": "1.0.0", "name": "pods", "plugins": [PTP, {"type": "portmap"}]}


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def chained(*plugins: Any) -> dict[str, Any]:
    return {**LIST, "plugins": list(plugins)}


def test_we_go_last_into_the_first_valid_list() -> None:
    files = {
        "00-broken.conflist": b"{",
        "05-empty.conflist": raw({**LIST, "plugins": []}),
        "07-list-in-conf.conf": raw(LIST),
        "10-pods.conflist": raw(LIST),
        "20-other.conflist": raw(LIST),
        "README.md": b"hello",
    }
    edit = insert(files, ENTRY)
    assert {name: json.loads(text) for name, text in edit.write.items()} == {
        "10-pods.conflist": chained(*LIST["plugins"], OURS)
    }
    assert edit.delete == ()


def test_a_second_time_changes_nothing() -> None:
    assert insert({"10-pods.conflist": raw(chained(PTP, OURS))}, ENTRY) == NO_EDIT


@pytest.mark.parametrize(
    "present",
    [
        chained(OURS, PTP),
        chained(PTP, {"type": "ambient-cni", "if_agent_absent": "start"}),
        chained(PTP, OURS, OURS),
    ],
)
def test_an_older_entry_is_replaced(present: dict[str, Any]) -> None:
    edit = insert({"10-pods.conflist": raw(present)}, ENTRY)
    assert json.loads(edit.write["10-pods.conflist"]) == chained(PTP, OURS)


@pytest.mark.parametrize("extension", ["conf", "json"])
def test_a_single_plugin_becomes_a_list_and_comes_back(extension: str) -> None:
    name = f"10-pods.{extension}"
    single = {"cniVersion": "0.4.0", "name": "pods", **PTP}
    edit = insert({name: raw(single)}, ENTRY)
    assert edit.delete == (name,)
    text = edit.write["10-pods.conflist"]
    assert json.loads(text)["plugins"][0] == PTP
    again = {"10-pods.conflist": text.encode()}
    assert insert(again, ENTRY) == NO_EDIT
    back = remove(again)
    assert json.loads(back.write[name]) == single
    assert back.delete == ("10-pods.conflist",)


def test_removal_leaves_the_others() -> None:
    files = {"10-pods.conflist": raw(chained(PTP, OURS)), "20-other.conflist": raw(LIST)}
    edit = remove(files)
    assert {name: json.loads(text) for name, text in edit.write.items()} == {
        "10-pods.conflist": chained(PTP)
    }
    assert remove({"20-other.conflist": raw(LIST)}) == NO_EDIT


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no .conflist"),
        ({"10.conflist": b"\xff"}, "10.conflist: not JSON"),
        ({"10.conflist": b"[" * 100_000}, "10.conflist: not JSON: maximum recursion"),
        (
            {"10.conflist": b"\xef\xbb\xbf" + raw(LIST)},
            "10.conflist: not JSON: Unexpected UTF-8 BOM",
        ),
        ({"10.conflist": raw({**LIST, "mtu": float("nan")})}, "10.conflist: not JSON: NaN"),
        ({"10.conflist": raw({**LIST, "name": 7})}, "10.conflist: a name or a version that is no"),
        ({"10.conflist": raw(chained({"type": 7}))}, "10.conflist: a plugin without a type"),
        ({"10.conflist": b"[]"}, "10.conflist: not a JSON object"),
        ({"10.conflist": raw({"plugins": [PTP]})}, "10.conflist: no name or no plugins"),
        ({"10.conflist": raw(chained({}))}, "10.conflist: a plugin without a type"),
        ({"10.conf": raw({"name": "pods"})}, "10.conf: no plugin type"),
    ],
)
def test_nothing_to_chain_to_is_explained(files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(NoConflistError, match=reason):
        active(files)


def test_a_list_of_ourselves_only_connects_nobody() -> None:
    with pytest.raises(NoConflistError, match="no plugin that connects pods"):
        insert({"10-pods.conflist": raw(chained(OURS))}, ENTRY)


def test_a_plugin_that_puts_its_file_ahead_gets_us_and_the_other_file_loses_us() -> None:
    """As multus does when it starts."""
    multus = {"cniVersion": "0.4.0", "name": "multus", "type": "multus", "delegates": [LIST]}
    files = {"10-pods.conflist": raw(chained(PTP, OURS)), "00-multus.conf": raw(multus)}
    edit = insert(files, ENTRY)
    assert edit.delete == ("00-multus.conf",)
    written = {name: json.loads(text) for name, text in edit.write.items()}
    assert [each["type"] for each in written["00-multus.conflist"]["plugins"]] == [
        "multus",
        "ambient-cni",
    ]
    assert written["10-pods.conflist"] == chained(PTP)
    again = {name: text.encode() for name, text in edit.write.items()}
    assert insert(again, ENTRY) == NO_EDIT
    assert "00-multus.conf" in remove(again).write


def test_a_hidden_file_counts_as_it_does_for_the_runtime() -> None:
    files = {".05-pods.conflist": raw(LIST), "10-pods.conflist": raw(LIST), ".a.swp": b"x"}
    assert list(insert(files, ENTRY).write) == [".05-pods.conflist"]


OWNED = {**OURS, "owned_file": True}


def test_a_file_of_our_own_goes_ahead_and_the_original_stays() -> None:
    edit = insert_owned({"10-pods.conflist": raw(LIST)}, ENTRY, "02-mesh.conflist")
    assert edit.delete == ()
    assert {name: json.loads(text) for name, text in edit.write.items()} == {
        "02-mesh.conflist": chained(*LIST["plugins"], OWNED)
    }
    files = {"10-pods.conflist": raw(LIST), "02-mesh.conflist": raw(chained(PTP, OWNED))}
    assert list(insert_owned(files, ENTRY, "02-mesh.conflist").write) == ["02-mesh.conflist"], (
        "the original has got another plugin"
    )
    files["02-mesh.conflist"] = edit.write["02-mesh.conflist"].encode()
    assert insert_owned(files, ENTRY, "02-mesh.conflist") == NO_EDIT
    assert remove(files) == ({}, ("02-mesh.conflist",))


def test_pain_08_our_own_file_stays_while_the_original_is_away() -> None:
    """A node boots: nothing may run without us because the network plugin is not there yet."""
    files = {"02-mesh.conflist": raw(chained(PTP, OWNED))}
    assert insert_owned(files, ENTRY, "02-mesh.conflist") == NO_EDIT
    with pytest.raises(NoConflistError):
        insert_owned({}, ENTRY, "02-mesh.conflist")


def test_going_over_to_our_own_file_and_back() -> None:
    files = {"10-pods.conflist": raw(chained(PTP, OURS))}
    over = insert_owned(files, ENTRY, "02-mesh.conflist")
    assert json.loads(over.write["10-pods.conflist"]) == chained(PTP)
    files = {name: text.encode() for name, text in over.write.items()}
    renamed = insert_owned(files, ENTRY, "01-mesh.conflist")
    assert renamed.delete == ("02-mesh.conflist",)
    back = insert(files, ENTRY)
    assert json.loads(back.write["10-pods.conflist"]) == chained(PTP, OURS)
    assert back.delete == ("02-mesh.conflist",)


def test_a_name_that_cannot_be_our_own_is_refused() -> None:
    with pytest.raises(MeshError, match="would come after 10-pods"):
        insert_owned({"10-pods.conflist": raw(LIST)}, ENTRY, "50-mesh.conflist")
    files = {"10-pods.conflist": raw(LIST), "02-mesh.conflist": raw(chained(PTP))}
    with pytest.raises(MeshError, match="not made by the mesh"):
        insert_owned(files, ENTRY, "02-mesh.conflist")
