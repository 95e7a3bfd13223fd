"""Strategic merge patches: a table of what Kubernetes documents, and properties of any patch."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.local.apiserver.core.kinds import BUILTIN
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.core.strategic import strategic_merge

KINDS = {kind.kind: kind for kind in BUILTIN}
POD, NODE, SERVICE = KINDS["Pod"], KINDS["Node"], KINDS["Service"]


def spec(**fields):
    return {"spec": fields}


def containers(*items):
    return spec(containers=list(items))


def variable(value):
    return {"name": "X", "value": value}


def mount(volume):
    return {"mountPath": "/x", "name": volume}


A, B = {"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}


@pytest.mark.parametrize(
    ("kind", "original", "patch", "want"),
    [
        # members merge, null removes
        (POD, spec(x=1, y=2), spec(y=None, z=3), spec(x=1, z=3)),
        # a list with a key merges by it and appends what is new
        (POD, containers(A), containers({"name": "a", "image": "a:2"}, B),
         containers({"name": "a", "image": "a:2"}, B)),
        # an item is deleted by its key
        (POD, containers(A, B), containers({"$patch": "delete", "name": "a"}), containers(B)),
        # a list is replaced on demand
        (POD, containers(A, B), containers({"$patch": "replace"}, B), containers(B)),
        # the order of the patch is kept, unnamed items stay behind their neighbour
        (POD, containers(A, B),
         {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}},
         containers(B, A)),
        # tolerations have no key: they are replaced
        (POD, spec(tolerations=[{"key": "a"}]), spec(tolerations=[{"key": "b"}]),
         spec(tolerations=[{"key": "b"}])),
        # finalizers are a set
        (POD, {"metadata": {"finalizers": ["a"]}}, {"metadata": {"finalizers": ["b", "a"]}},
         {"metadata": {"finalizers": ["a", "b"]}}),
        (POD, {"metadata": {"finalizers": ["a", "b"]}},
         {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}},
         {"metadata": {"finalizers": ["b"]}}),
        # a map is replaced or deleted on demand
        (POD, spec(nodeSelector={"a": "1"}), spec(nodeSelector={"$patch": "replace", "b": "2"}),
         spec(nodeSelector={"b": "2"})),
        (POD, spec(nodeSelector={"a": "1"}), spec(nodeSelector={"$patch": "delete"}), spec()),
        # only the retained keys stay
        (POD, spec(strategy={"type": "X", "rolling": {}}),
         spec(strategy={"$retainKeys": ["type"], "type": "Y"}), spec(strategy={"type": "Y"})),
        # ports: by containerPort in a container, by port in a service
        (POD, containers({**A, "ports": [{"containerPort": 80}]}),
         containers({"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}),
         containers({**A, "ports": [{"containerPort": 80, "name": "http"}]})),
        (SERVICE, spec(ports=[{"port": 80, "targetPort": 1}]),
         spec(ports=[{"port": 80, "targetPort": 2}]),
         spec(ports=[{"port": 80, "targetPort": 2}])),
        # conditions by type
        (NODE, {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
         {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
         {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        # mounts by path, variables by name
        (POD, containers({**A, "env": [variable("1")], "volumeMounts": [mount("v")]}),
         containers({"name": "a", "env": [variable("2")], "volumeMounts": [mount("w")]}),
         containers({**A, "env": [variable("2")], "volumeMounts": [mount("w")]})),
    ],
)  # fmt: skip
def test_table(kind, original, patch, want):
    before = copy.deepcopy(original)
    assert strategic_merge(kind, original, patch) == want
    assert original == before


@pytest.mark.parametrize("patch", [containers({"image": "x"}), spec(x={"$patch": "explode"})])
def test_a_patch_that_cannot_be_meant_is_a_400(patch):
    with pytest.raises(ApiError) as caught:
        strategic_merge(POD, containers(A), patch)
    assert caught.value.code == 400


names = st.sampled_from(["a", "b", "c", "d"])
items = st.builds(lambda n, i: {"name": n, "image": i}, names, names)
pods = st.lists(items, unique_by=lambda item: item["name"]).map(lambda found: containers(*found))


@given(original=pods, patch=pods)
def test_a_patch_applied_twice_is_applied_once(original, patch):
    once = strategic_merge(POD, original, patch)
    assert strategic_merge(POD, once, patch) == once


@given(original=pods, patch=pods)
def test_keys_stay_unique_and_the_patch_wins(original, patch):
    merged = strategic_merge(POD, original, patch)["spec"]["containers"]
    by_name = {item["name"]: item for item in merged}
    assert len(by_name) == len(merged)
    assert all(by_name[item["name"]] == item for item in patch["spec"]["containers"])


@given(original=pods, order=st.permutations(["a", "b", "c", "d"]))
def test_any_order_only_moves_items(original, order):
    patch = {"spec": {"$setElementOrder/containers": [{"name": name} for name in order]}}
    merged = strategic_merge(POD, original, patch)["spec"]["containers"]
    assert [item["name"] for item in merged] == [
        name for name in order if any(i["name"] == name for i in original["spec"]["containers"])
    ]
