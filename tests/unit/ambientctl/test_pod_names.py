"""Pods as people name them."""

from __future__ import annotations

import pytest

from ambient.api.errors import UsageError
from ambientctl.pod_names import near, place, pods_meant


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ("web", ("here", "web")),
        ("web.shop", ("shop", "web")),
        ("web.shop.svc.cluster.local", ("shop", "web")),
        ("shop/web", ("shop", "web")),
        ("deploy/web", ("here", "web")),
        ("deployment/web.shop", ("shop", "web")),
        ("svc/web", ("here", "web")),
        ("deployment.apps/web.shop", ("shop", "web")),
        ("Pod/web", ("here", "web")),
    ],
)
def test_where_and_what(given, where):
    assert place(given, "here") == where


@pytest.mark.parametrize("given", ["", "/", "shop/", "deploy/"])
def test_names_of_nothing(given):
    with pytest.raises(UsageError, match="names nothing"):
        place(given, "here")


def pod(name, app="", owner="", phase="Running", hash_="1a"):
    labels = {"pod-template-hash": hash_} | ({"app": app} if app else {})
    owners = [{"kind": "ReplicaSet", "name": owner}] if owner else []
    return {
        "metadata": {"name": name, "labels": labels, "ownerReferences": owners},
        "status": {"phase": phase},
    }


PODS = [
    pod("reviews-v1-1a-x", "reviews", "reviews-v1-1a", phase="Pending"),
    pod("reviews-v1-1a-y", "reviews", "reviews-v1-1a"),
    pod("reviews-v2-1a-z", "reviews", "reviews-v2-1a"),
    pod("reviews"),
    pod("tunnel-7", owner="tunnel"),
]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("reviews", ["reviews"]),
        ("reviews-v1", ["reviews-v1-1a-y", "reviews-v1-1a-x"]),
        ("reviews-v2-1a", ["reviews-v2-1a-z"]),
        ("tunnel", ["tunnel-7"]),
        ("lost", []),
    ],
)
def test_the_pod_then_the_workload_then_the_app(name, meant):
    assert [one["metadata"]["name"] for one in pods_meant(PODS, name)] == meant


def test_an_app_is_all_of_its_pods():
    names = [one["metadata"]["name"] for one in pods_meant(PODS[:3], "reviews")]
    assert names == ["reviews-v1-1a-y", "reviews-v2-1a-z", "reviews-v1-1a-x"]


def test_a_hint_with_names_that_are_near_or_with_those_that_there_are():
    assert near("reveiws", ["reviews", "details"], "apps there") == "did you mean reviews?"
    assert near("x", ["b", "a"], "apps there") == "apps there: a, b"
    many = [f"app-{n}" for n in range(10, 20)]
    assert near("x", many, "apps there").endswith("app-17 and 2 more")
    assert near("x", [], "apps there") == ""
