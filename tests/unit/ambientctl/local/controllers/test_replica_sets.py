"""ReplicaSets: which pods are made, and which go first."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.kinds import PODS, REPLICA_SETS
from ambientctl.local.controllers.commands import Create, Delete, Replace
from ambientctl.local.controllers.replica_sets import decide


def replica_set(replicas, **metadata):
    labels = {"app": "web"}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 1, **metadata},
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": labels}, "spec": {}}},
    }


def pod(name, *, bound=True, phase="Running", ready=True, created="2026-01-01T00:00:00Z", **more):
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created,
                     "labels": {"app": "web"}, **more},
        "spec": {"nodeName": "n"} if bound else {},
        "status": {"phase": phase, "conditions": [condition]},
    }  # fmt: skip


GOOD = pod("good")


@pytest.mark.parametrize(
    ("replicas", "pods", "made", "deleted"),
    [
        (2, [], 2, []),
        (1, [GOOD], 0, []),
        # finished and terminating pods do not count
        (1, [pod("f", phase="Failed")], 1, []),
        (1, [pod("t", deletionTimestamp="t")], 1, []),
        # the ones that hurt least go first
        (1, [GOOD, pod("x", bound=False)], 0, ["x"]),
        (1, [GOOD, pod("x", phase="Pending")], 0, ["x"]),
        (1, [GOOD, pod("x", ready=False)], 0, ["x"]),
        (1, [GOOD, pod("x", created="2026-01-01T00:00:09Z")], 0, ["x"]),
        (0, [GOOD], 0, ["good"]),
    ],
)
def test_pods(replicas, pods, made, deleted):
    commands = decide(replica_set(replicas), pods)
    assert sum(isinstance(c, Create) and c.resource == PODS for c in commands) == made
    assert [c.name for c in commands if isinstance(c, Delete)] == deleted


def test_a_pod_is_made_from_the_template():
    create, _ = decide(replica_set(1), [])
    metadata = create.object["metadata"]
    assert (metadata["generateName"], metadata["labels"]) == ("web-", {"app": "web"})
    assert metadata["ownerReferences"][0]["controller"] is True


def test_the_status_is_told_once():
    (told,) = decide(replica_set(1), [GOOD])
    assert isinstance(told, Replace)
    assert (told.resource, told.subresource) == (REPLICA_SETS, "status")
    assert told.object["status"] == {
        "replicas": 1,
        "fullyLabeledReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
        "observedGeneration": 1,
    }
    assert decide(told.object, [GOOD]) == []


def test_a_dying_replica_set_makes_nothing():
    commands = decide(replica_set(2, deletionTimestamp="t"), [])
    assert not any(isinstance(c, Create) for c in commands)
