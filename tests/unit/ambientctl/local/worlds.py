"""A cluster without a network, with a clock and a source of chance that tests command."""

from __future__ import annotations

import datetime
import itertools
from ipaddress import IPv4Network
from typing import Any

from ambientctl.local.apiserver.core.cluster import Call, Cluster, Surroundings
from ambientctl.local.apiserver.core.deletion import DeleteOptions
from ambientctl.local.apiserver.core.kinds import Kind

Object = dict[str, Any]
PLAIN = Call()


class World:
    """A cluster with namespace ``shop``; ``now`` moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        uids, suffixes = itertools.count(1), itertools.count(1)
        around = Surroundings(
            lambda: self.now, lambda: f"uid-{next(uids)}", lambda _: f"x{next(suffixes)}"
        )
        self.cluster = Cluster(around, IPv4Network("10.96.0.0/16"))
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})

    def kind(self, api_version: str, name: str) -> Kind:
        kind = self.cluster.catalogue.of(api_version, name)
        assert kind is not None
        return kind

    def create(self, obj: Object, call: Call = PLAIN) -> Object:
        kind = self.cluster.kind_of(obj)
        namespace = obj["metadata"].get("namespace", "shop" if kind.namespaced else "")
        return self.cluster.create(kind, namespace, obj, call)

    def update(self, obj: Object, subresource: str = "") -> Object:
        metadata = obj["metadata"]
        kind = self.cluster.kind_of(obj)
        address = metadata.get("namespace", ""), metadata["name"]
        return self.cluster.update(kind, *address, obj, Call(), subresource)

    def delete(self, obj: Object, **options: Any) -> Object:
        metadata = obj["metadata"]
        kind = self.cluster.kind_of(obj)
        address = metadata.get("namespace", ""), metadata["name"]
        return self.cluster.delete(kind, *address, DeleteOptions(**options), Call())

    def find(self, obj: Object) -> Object | None:
        metadata = obj["metadata"]
        key = self.cluster.kind_of(obj).key
        return self.cluster.store.get(key, metadata.get("namespace", ""), metadata["name"])


def pod(name: str = "web", **spec: Any) -> Object:
    """A small valid pod in ``shop``."""
    container = {"name": "app", "image": "app:v1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"containers": [container], **spec},
    }


def service(name: str = "web", **spec: Any) -> Object:
    """A small valid service in ``shop``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "name": "http"}], **spec},
    }


def workload(kind: str = "Deployment", name: str = "web", **spec: Any) -> Object:
    """A small valid Deployment, ReplicaSet or DaemonSet in ``shop``."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "app", "image": "app:v1"}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }


def node(name: str, ready: bool = True, **spec: Any) -> Object:
    """A node with its hostname label."""
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": spec,
        "status": {"conditions": [condition]},
    }


def crd(schema: Object | None = None) -> Object:
    """The definition of ``widgets.example.com``."""
    spec_schema = schema or {
        "type": "object",
        "required": ["color"],
        "properties": {
            "color": {"type": "string", "enum": ["red", "green"]},
            "size": {"type": "integer", "default": 3},
            "parts": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                },
            },
        },
    }
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    structural = {"type": "object", "properties": {"spec": spec_schema, "status": status}}
    versions = [
        {
            "name": name,
            "served": True,
            "storage": name == "v1",
            "subresources": {"status": {}},
            "additionalPrinterColumns": [
                {"name": "Color", "type": "string", "jsonPath": ".spec.color"}
            ],
            "schema": {"openAPIV3Schema": structural},
        }
        for name in ("v1", "v1beta1")
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": versions,
        },
    }


def widget(**spec: Any) -> Object:
    """One custom resource of ``crd()``."""
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": spec,
    }
