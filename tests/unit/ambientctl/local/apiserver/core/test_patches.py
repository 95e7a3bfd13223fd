"""Patches by media type."""

from __future__ import annotations

import pytest

from ambientctl.local.apiserver.core.kinds import BUILTIN, Kind
from ambientctl.local.apiserver.core.patches import (
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    patched,
)
from ambientctl.local.apiserver.core.status import ApiError

POD = next(kind for kind in BUILTIN if kind.kind == "Pod")
WIDGET = Kind(group="example.com", version="v1", plural="widgets", kind="Widget", custom=True)
LIVE = {"metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}, "spec": {"list": [1]}}


def test_merge_patch_replaces_lists_and_removes_nulls():
    patch = {"metadata": {"labels": {"x": None}}, "spec": {"list": [2]}}
    got = patched(POD, LIVE, MERGE_PATCH, patch)
    assert got == {"metadata": {"name": "a", "labels": {"y": "2"}}, "spec": {"list": [2]}}


def test_json_patch():
    patch = [{"op": "test", "path": "/metadata/labels/x", "value": "1"},
             {"op": "add", "path": "/spec/list/-", "value": 9}]  # fmt: skip
    assert patched(POD, LIVE, JSON_PATCH, patch)["spec"] == {"list": [1, 9]}


@pytest.mark.parametrize(
    ("kind", "media_type", "patch", "code"),
    [
        (POD, JSON_PATCH, [{"op": "test", "path": "/spec/list/0", "value": 5}], 422),
        (POD, JSON_PATCH, [{"op": "remove", "path": "/nowhere"}], 422),
        (POD, JSON_PATCH, [{"op": "explode", "path": "/x"}], 400),
        (POD, JSON_PATCH, [{"op": "replace", "path": "", "value": 7}], 422),
        (POD, JSON_PATCH, {"op": "add"}, 400),
        (POD, MERGE_PATCH, [1], 400),
        (POD, "text/plain", {}, 415),
        (WIDGET, STRATEGIC_PATCH, {}, 415),
    ],
)
def test_what_cannot_be_applied_is_refused(kind, media_type, patch, code):
    with pytest.raises(ApiError) as caught:
        patched(kind, LIVE, media_type, patch)
    assert caught.value.code == code
