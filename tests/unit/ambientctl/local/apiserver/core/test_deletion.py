"""What a delete request means."""

from __future__ import annotations

import datetime

import pytest

from ambientctl.local.apiserver.core.deletion import (
    FOREGROUND,
    ORPHAN,
    DeleteOptions,
    delete_decision,
    is_finished,
    read_options,
)
from ambientctl.local.apiserver.core.kinds import BUILTIN
from ambientctl.local.apiserver.core.status import ApiError

KINDS = {kind.kind: kind for kind in BUILTIN}
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("body", "grace", "policy", "want"),
    [
        (None, None, None, DeleteOptions()),
        (None, "0", "Foreground", DeleteOptions(0, "Foreground")),
        ({"gracePeriodSeconds": 5, "propagationPolicy": "Orphan"}, "9", None,
         DeleteOptions(5, "Orphan")),
        ({"orphanDependents": True}, None, None, DeleteOptions(None, "Orphan")),
        ({"preconditions": {"uid": "u"}, "dryRun": ["All"]}, None, None,
         DeleteOptions(uid="u", dry_run=True)),
    ],
)  # fmt: skip
def test_options(body, grace, policy, want):
    assert read_options(body, grace, policy) == want


@pytest.mark.parametrize(
    ("body", "grace", "policy"), [([], None, None), (None, "x", None), (None, None, "Never")]
)
def test_options_that_cannot_be_meant(body, grace, policy):
    with pytest.raises(ApiError) as caught:
        read_options(body, grace, policy)
    assert caught.value.code == 400


def obj(spec=None, status=None, **metadata):
    return {"metadata": {"name": "x", **metadata}, "spec": spec or {}, "status": status or {}}


BOUND = {"nodeName": "n", "terminationGracePeriodSeconds": 7}


@pytest.mark.parametrize(
    ("kind", "live", "options", "waits"),
    [
        ("ConfigMap", obj(), DeleteOptions(), None),
        ("ConfigMap", obj(finalizers=["f"]), DeleteOptions(), (0, ["f"])),
        ("ReplicaSet", obj(), DeleteOptions(policy="Foreground"), (0, [FOREGROUND])),
        ("ReplicaSet", obj(), DeleteOptions(policy="Orphan"), (0, [ORPHAN])),
        ("Pod", obj(), DeleteOptions(), None),
        ("Pod", obj(BOUND), DeleteOptions(), (7, None)),
        ("Pod", obj(BOUND), DeleteOptions(3), (3, None)),
        ("Pod", obj(BOUND), DeleteOptions(0), None),
        ("Pod", obj(BOUND, {"phase": "Succeeded"}), DeleteOptions(), None),
        ("Namespace", obj({"finalizers": ["kubernetes"]}), DeleteOptions(), (0, None)),
    ],
)
def test_gone_at_once_or_waited_for(kind, live, options, waits):
    decided = delete_decision(KINDS[kind], live, options, NOW)
    if waits is None:
        assert decided is None
        return
    metadata = decided["metadata"]
    assert (metadata["deletionGracePeriodSeconds"], metadata.get("finalizers")) == waits


@pytest.mark.parametrize(
    ("kind", "live", "finished"),
    [
        ("ConfigMap", obj(), False),
        ("ConfigMap", obj(deletionTimestamp="t"), True),
        ("ConfigMap", obj(deletionTimestamp="t", finalizers=["f"]), False),
        ("Pod", obj(deletionTimestamp="t", deletionGracePeriodSeconds=5), False),
        ("Pod", obj(deletionTimestamp="t", deletionGracePeriodSeconds=0), True),
        ("Namespace", obj({"finalizers": ["kubernetes"]}, deletionTimestamp="t"), False),
        ("Namespace", obj({"finalizers": []}, deletionTimestamp="t"), True),
    ],
)
def test_when_the_wait_is_over(kind, live, finished):
    assert is_finished(KINDS[kind], live) is finished
