"""Two control planes side by side: each object has exactly one that deploys it."""

import pytest

from istiod_lite.core.revisions import reads, runs, tag_of

DEFAULT, CANARY = {"default"}, {"canary", "prod"}  # prod is a tag of canary


@pytest.mark.parametrize(
    ("labels", "default", "canary"),
    [
        (None, True, True),
        ({"istio.io/rev": ""}, True, True),
        ({"istio.io/rev": "default"}, True, False),
        ({"istio.io/rev": "canary"}, False, True),
        ({"istio.io/rev": "prod"}, False, True),
        ({"istio.io/rev": "other"}, False, False),
    ],
)
def test_policies_and_routes(labels, default, canary):
    assert (reads(labels, DEFAULT), reads(labels, CANARY)) == (default, canary)


@pytest.mark.parametrize(
    ("labels", "namespace", "default", "canary"),
    [
        (None, None, True, False),
        (None, {"istio.io/rev": "prod"}, False, True),
        ({"istio.io/rev": "default"}, {"istio.io/rev": "prod"}, True, False),
        ({"istio.io/rev": "canary"}, None, False, True),
    ],
)
def test_waypoints(labels, namespace, default, canary):
    assert (runs(labels, namespace, DEFAULT), runs(labels, namespace, CANARY)) == (default, canary)


def test_tags():
    labels = {"istio.io/tag": "prod", "istio.io/rev": "canary"}
    assert tag_of({"metadata": {"labels": labels}}) == ("prod", "canary")
    assert tag_of({"metadata": {"labels": {"istio.io/tag": "prod"}}}) is None
    assert tag_of({"metadata": {}}) is None
