"""Deleting a waypoint settles the labels that refer to it, wherever they are."""

from __future__ import annotations

import pytest

OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: v1
kind: Namespace
metadata:
  name: other
  labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: shop, labels: {istio.io/use-waypoint: none}}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: mine, namespace: other, labels: {istio.io/use-waypoint: waypoint}}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec: {hosts: [api.example.com], ports: [{number: 80, name: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""
SETTLED = {"namespace shop", "namespace other", "service shop/web", "serviceentry shop/ext"}


@pytest.fixture
def mesh(ambientctl):
    ambientctl.apply(OBJECTS)
    ambientctl.pod("shop/direct", "10.244.1.9", labels={"istio.io/use-waypoint": "waypoint"})
    return ambientctl


def labelled(mesh):
    """Objects that still have the label."""
    found = {}
    for group, plural in (("", "namespaces"), ("", "services"),
                          ("networking.istio.io", "serviceentries")):  # fmt: skip
        for (namespace, name), obj in mesh.objects((group, plural)).items():
            label = (obj["metadata"].get("labels") or {}).get("istio.io/use-waypoint")
            if label:
                found[f"{namespace}/{name}"] = label
    return found


def test_labels_are_named_unless_they_are_to_go(mesh):
    done = mesh("waypoint", "delete", "waypoint", "-n", "shop")
    assert done.status == 0
    for holder in SETTLED:
        assert f"{holder} is still labeled istio.io/use-waypoint=waypoint" in done.err
    assert "kubectl label service web -n shop istio.io/use-waypoint-" in done.err
    assert "other/mine" not in done.err  # its own namespace's waypoint
    assert "pod shop/direct is still labeled" in done.err
    assert len(labelled(mesh)) == 6


def test_labels_of_all_namespaces_go(mesh):
    done = mesh("waypoint", "delete", "--all", "-n", "shop", "--unlabel")
    for holder in SETTLED:
        assert f"{holder}: label istio.io/use-waypoint removed" in done.out
    assert labelled(mesh) == {"shop/out": "none", "other/mine": "waypoint"}
    assert "take the label out of its template" in done.err


def test_labels_that_a_deletion_left_go_when_it_is_repeated(mesh):
    mesh("waypoint", "delete", "waypoint", "-n", "shop")
    done = mesh("waypoint", "delete", "waypoint", "-n", "shop", "--unlabel")
    assert "waypoint shop/waypoint not found" in done.out
    assert labelled(mesh) == {"shop/out": "none", "other/mine": "waypoint"}
