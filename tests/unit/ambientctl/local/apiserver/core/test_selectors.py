"""Selectors: what they take, and how what cannot be read is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.local.apiserver.core import selectors
from ambientctl.local.apiserver.core.status import ApiError


def labelled(**labels):
    return {"metadata": {"name": "x", "labels": labels}}


@pytest.mark.parametrize(
    ("text", "labels", "taken"),
    [
        ("", {}, True),
        ("app=web", {"app": "web"}, True),
        ("app==web", {"app": "web"}, True),
        ("app=web", {"app": "api"}, False),
        ("app=web", {}, False),
        ("app!=web", {"app": "api"}, True),
        ("app!=web", {}, True),
        ("app", {"app": ""}, True),
        ("app", {}, False),
        ("!app", {}, True),
        ("!app", {"app": "x"}, False),
        ("app in (web, api)", {"app": "api"}, True),
        ("app in (web,api)", {}, False),
        ("app notin (web)", {}, True),
        ("app notin (web)", {"app": "web"}, False),
        ("app in (web,api),tier=front", {"app": "web", "tier": "front"}, True),
        ("app in (web,api),tier=front", {"app": "web"}, False),
        ("n>3", {"n": "4"}, True),
        ("n>3", {"n": "x"}, False),
        ("n<3", {"n": "2"}, True),
    ],
)
def test_label_selector(text, labels, taken):
    assert selectors.matches_labels(selectors.parse_labels(text), labelled(**labels)) is taken


@pytest.mark.parametrize("text", ["a b", "=x", "app in web", "app=a b", "-x=y"])
def test_an_unreadable_label_selector_is_quoted(text):
    with pytest.raises(ApiError) as caught:
        selectors.parse_labels(text)
    assert caught.value.code == 400
    assert "unable to parse requirement" in caught.value.message


@given(st.text(max_size=40))
def test_any_text_is_a_selector_or_a_400(text):
    with contextlib.suppress(ApiError):
        parsed = selectors.parse_labels(text)
        assert selectors.matches_labels(parsed, labelled()) in (True, False)


NAMES = st.from_regex(r"[a-z]{1,4}", fullmatch=True)


@given(
    labels=st.dictionaries(NAMES, NAMES, max_size=3),
    key=NAMES,
    values=st.sets(NAMES, min_size=1, max_size=3),
)
def test_in_and_notin_are_opposites(labels, key, values):
    listed = ",".join(sorted(values))
    inside = selectors.parse_labels(f"{key} in ({listed})")
    outside = selectors.parse_labels(f"{key} notin ({listed})")
    obj = labelled(**labels)
    assert selectors.matches_labels(inside, obj) is not selectors.matches_labels(outside, obj)


POD = {
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"nodeName": "node-1", "hostNetwork": True},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("metadata.name=web", True),
        ("metadata.name!=web", False),
        ("spec.nodeName=node-1,status.phase=Running", True),
        ("spec.nodeName=node-1,status.phase!=Running", False),
        ("spec.nodeName=", False),
        ("status.podIP=", True),
        ("spec.hostNetwork=true", True),
    ],
)
def test_field_selector(text, taken):
    parsed = selectors.parse_fields(text, ("", "pods"))
    assert selectors.matches_fields(parsed, POD) is taken


@pytest.mark.parametrize("text", ["spec.image=x", "spec.nodeName"])
def test_an_unknown_field_is_refused(text):
    with pytest.raises(ApiError) as caught:
        selectors.parse_fields(text, ("", "pods"))
    assert caught.value.code == 400


def test_an_event_is_found_by_its_object_and_its_component():
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "web"},
        "source": {"component": "kubelet"},
    }
    parsed = selectors.parse_fields("involvedObject.name=web,source=kubelet", ("", "events"))
    assert selectors.matches_fields(parsed, event)


def test_a_missing_selector_object_selects_nothing_and_an_empty_one_everything():
    assert selectors.from_object(None) is None
    assert selectors.from_object({}) == ()


def test_match_expressions():
    parsed = selectors.from_object(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}],
        }
    )
    assert selectors.matches_labels(parsed, labelled(app="web"))
    assert not selectors.matches_labels(parsed, labelled(app="web", tier="back"))
