"""What users lay over the objects of a waypoint."""

import pytest

from istiod_lite.core.overlay import merge

BASE = {
    "spec": {
        "replicas": 2,
        "containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 1}]}, {"name": "b"}],
        "tolerations": [{"key": "k"}],
        "ports": [{"port": 80, "name": "http"}],
    }
}


@pytest.mark.parametrize(
    ("patch", "want"),
    [
        ({}, {}),
        ({"replicas": 5}, {"replicas": 5}),
        ({"replicas": None}, {"replicas": ...}),
        ({"new": {"a": 1}}, {"new": {"a": 1}}),
        (
            {"containers": [{"name": "b", "image": "y"}, {"name": "c"}]},
            {"containers": [BASE["spec"]["containers"][0], {"name": "b", "image": "y"},
                            {"name": "c"}]},
        ),
        (
            {"containers": [{"name": "a", "$patch": "delete"}]},
            {"containers": [{"name": "b"}]},
        ),
        (
            {"containers": [{"$patch": "replace"}, {"name": "z"}]},
            {"containers": [{"name": "z"}]},
        ),
        (
            {"containers": [{"name": "a", "ports": [{"containerPort": 2}]}]},
            {"containers": [{"name": "a", "image": "x",
                             "ports": [{"containerPort": 1}, {"containerPort": 2}]},
                            {"name": "b"}]},
        ),
        ({"ports": [{"port": 80, "nodePort": 30000}]},
         {"ports": [{"port": 80, "name": "http", "nodePort": 30000}]}),
        ({"tolerations": []}, {"tolerations": []}),
    ],
)  # fmt: skip
def test_merge(patch, want):
    found = merge(BASE, {"spec": patch})["spec"]
    expected = {k: v for k, v in {**BASE["spec"], **want}.items() if v is not ...}
    assert found == expected


def test_directives_for_whole_objects():
    assert merge(BASE, {"spec": {"$patch": "replace", "a": 1}}) == {"spec": {"a": 1}}
    assert merge(BASE, {"spec": {"$patch": "delete"}}) == {}


def test_nothing_is_changed_in_place():
    merge(BASE, {"spec": {"containers": [{"name": "a", "image": "other"}]}})
    assert BASE["spec"]["containers"][0]["image"] == "x"
