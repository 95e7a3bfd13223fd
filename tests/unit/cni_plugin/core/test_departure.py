"""Upgrade or removal: one row per answer of the API server."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugin.core.departure import Answer, Look, decide


def found(deleting: bool = False, **spec: Any) -> Look:
    metadata = {"name": "istio-cni-node"}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return Look(Answer.FOUND, {"metadata": metadata, "spec": {"template": {"spec": spec}}})


def affinity(*values: str) -> dict[str, Any]:
    expressions = [{"key": "pool", "operator": "In", "values": list(values)}]
    terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


MESH, OTHER = {"pool": "mesh"}, {"pool": "other"}


@pytest.mark.parametrize(
    ("at_start", "now", "labels", "clean"),
    [
        (Answer.FOUND, found(), MESH, False),
        (Answer.FOUND, found(deleting=True), MESH, True),
        (Answer.FOUND, Look(Answer.NOT_FOUND), MESH, True),
        (Answer.FOUND, Look(Answer.FORBIDDEN), MESH, True),
        (Answer.FOUND, Look(Answer.SILENT), MESH, False),
        (Answer.FOUND, found(nodeSelector={"pool": "mesh"}), MESH, False),
        (Answer.FOUND, found(nodeSelector={"pool": "mesh"}), OTHER, True),
        (Answer.FOUND, found(affinity=affinity("mesh", "new")), MESH, False),
        (Answer.FOUND, found(affinity=affinity("mesh")), OTHER, True),
        (Answer.FOUND, found(affinity=affinity("mesh")), None, False),
        # Never saw a DaemonSet, or never had the right to: then its absence says nothing.
        (Answer.NOT_FOUND, Look(Answer.NOT_FOUND), MESH, False),
        (Answer.FORBIDDEN, Look(Answer.FORBIDDEN), MESH, False),
        (Answer.SILENT, Look(Answer.NOT_FOUND), MESH, False),
    ],
)
def test_the_node_is_cleaned_only_where_the_mesh_is_taken_off_it(
    at_start: Answer, now: Look, labels: dict[str, str] | None, clean: bool
) -> None:
    assert decide(at_start, now, labels).clean is clean
