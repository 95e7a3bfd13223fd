"""Chosen values over defaults."""

from __future__ import annotations

from typing import Any

import pytest

from ambient.api.errors import MeshError
from ambientctl.manifests.values import lookup, merge, parse_set, put

DEFAULTS = {
    "image": "ambient-mesh:1",
    "istiod": {"replicas": 2, "resources": {"requests": {"cpu": "1", "memory": "2"}}},
    "tolerations": [],
    "components": {"monitoring": False},
}


@pytest.mark.parametrize(
    ("chosen", "path", "value"),
    [
        ({"image": "mine"}, "image", "mine"),
        ({"image": 5}, "image", 5),
        ({"istiod": {"replicas": 3}}, "istiod.replicas", 3),
        ({"istiod": {"replicas": 3}}, "istiod.resources.requests.cpu", "1"),
        (
            {"istiod": {"resources": {"limits": {"memory": "3"}}}},
            "istiod.resources",
            {"requests": {"cpu": "1", "memory": "2"}, "limits": {"memory": "3"}},
        ),
        (
            {"istiod": {"resources": {"requests": {"cpu": None}}}},
            "istiod.resources",
            {"requests": {"memory": "2"}},
        ),
        ({"tolerations": [{"operator": "Exists"}]}, "tolerations", [{"operator": "Exists"}]),
        ({"components": {"monitoring": True}}, "components.monitoring", True),
    ],
)
def test_what_is_chosen_counts(chosen: dict[str, Any], path: str, value: Any) -> None:
    assert lookup(merge(DEFAULTS, chosen), path) == value


@pytest.mark.parametrize(
    ("chosen", "message", "hint"),
    [
        ({"imge": "x"}, "there is no value imge", "did you mean image?"),
        ({"istiod": {"replica": 1}}, "there is no value istiod.replica", "istiod.replicas?"),
        ({"zzz": 1}, "there is no value zzz", "there are components, image"),
        ({"istiod": {"replicas": "three"}}, 'istiod.replicas: "three" cannot', "default is 2"),
        ({"istiod": 3}, "istiod: 3 cannot", "replicas"),
        ({"components": {"monitoring": "yes"}}, "cannot stand there", "false"),
        ({"tolerations": {}}, "tolerations: {} cannot", "[]"),
        ({"istiod": {"replicas": True}}, "istiod.replicas: true cannot", "2"),
    ],
)
def test_what_cannot_be_chosen_is_named(chosen: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(MeshError) as failed:
        merge(DEFAULTS, chosen)
    assert message in str(failed.value)
    assert hint in failed.value.hint


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=true", {"a": {"b": {"c": True}}}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("a={x: [1]}", {"a": {"x": [1]}}),
    ],
)
def test_values_on_the_command_line(text: str, value: dict[str, Any]) -> None:
    assert parse_set(text) == value


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", "a={"])
def test_what_is_no_value_on_the_command_line(text: str) -> None:
    with pytest.raises(MeshError, match="--set"):
        parse_set(text)


def test_put_makes_the_way() -> None:
    values: dict[str, Any] = {}
    put(values, "a.b", 1)
    put(values, "a.c", 2)
    assert values == {"a": {"b": 1, "c": 2}}
