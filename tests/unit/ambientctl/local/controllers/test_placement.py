"""May this pod run on this node?"""

from __future__ import annotations

import pytest

from ambientctl.local.controllers.placement import obstacle
from tests.unit.ambientctl.local.worlds import node

TAINT = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}


def affinity(**term):
    required = {"nodeSelectorTerms": [term]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }


def where(operator, *values, key="kubernetes.io/hostname"):
    return [{"key": key, "operator": operator, "values": list(values)}]


def tolerating(**toleration):
    return {"tolerations": [toleration]}


@pytest.mark.parametrize(
    ("spec", "target", "fits"),
    [
        ({}, node("a"), True),
        ({}, node("a", ready=False), False),
        ({"nodeSelector": {"kubernetes.io/hostname": "a"}}, node("a"), True),
        ({"nodeSelector": {"kubernetes.io/hostname": "b"}}, node("a"), False),
        (affinity(matchExpressions=where("In", "a", "b")), node("a"), True),
        (affinity(matchExpressions=where("NotIn", "a")), node("a"), False),
        (affinity(matchExpressions=where("Exists", key="x")), node("a"), False),
        (affinity(matchFields=where("In", "a", key="metadata.name")), node("a"), True),
        (affinity(), node("a"), False),  # an empty term matches nothing
        ({}, node("a", taints=[TAINT]), False),
        ({}, node("a", taints=[{**TAINT, "effect": "PreferNoSchedule"}]), True),
        (tolerating(key="dedicated", value="gpu"), node("a", taints=[TAINT]), True),
        (tolerating(key="dedicated", value="cpu"), node("a", taints=[TAINT]), False),
        (tolerating(key="dedicated", operator="Exists"), node("a", taints=[TAINT]), True),
        (tolerating(operator="Exists"), node("a", taints=[TAINT]), True),
        (tolerating(operator="Exists", effect="NoExecute"), node("a", taints=[TAINT]), False),
        ({}, node("a", unschedulable=True), False),
        (tolerating(operator="Exists"), node("a", unschedulable=True), True),
    ],
)
def test_obstacle(spec, target, fits):
    assert (obstacle(spec, target) == "") is fits


def test_a_daemon_runs_on_unready_and_cordoned_nodes():
    assert obstacle({}, node("a", ready=False, unschedulable=True), daemon=True) == ""
