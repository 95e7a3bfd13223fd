"""Objects for analyzers, written as YAML: what a scenario does not say is left out."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime

from ambientctl.object_files import read_text
from istiod_lite.core.analysis.analyze import analyze
from istiod_lite.core.analysis.corpus import Corpus, Item

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SHOP = """
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
kind: Namespace
metadata: {name: web, labels: {istio.io/dataplane-mode: ambient}}
---
kind: Namespace
metadata: {name: monitoring}
---
kind: Service
metadata: {name: details, namespace: shop}
spec: {selector: {app: details}, ports: [{name: http, port: 9080}]}
---
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
kind: Deployment
metadata: {name: details, namespace: shop}
spec:
  template:
    metadata: {labels: {app: details, version: v1}}
    spec:
      serviceAccountName: details
      containers: [{name: c, ports: [{containerPort: 9080}]}]
---
kind: Deployment
metadata: {name: reviews, namespace: shop}
spec:
  template:
    metadata: {labels: {app: reviews, version: v1}}
    spec:
      serviceAccountName: reviews
      containers: [{name: c, ports: [{name: web, containerPort: 9080}]}]
"""
WAYPOINT = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
"""
BOUND = SHOP.replace(
    "{istio.io/dataplane-mode: ambient}",
    "{istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}",
    1,
)
"""The same with a label for a waypoint."""


def documents(*texts):
    found = list(read_text("f.yaml", "\n---\n".join(map(textwrap.dedent, texts)), "shop"))
    assert all(isinstance(one, Item) for one in found), found
    return found


def corpus(*texts, cluster=False, listed=(), now=NOW):
    items = documents(*texts)
    if cluster:
        items = [Item(one.ref, one.obj) for one in items]
    return Corpus(items, now=now, listed=listed)


def found(*texts, only=(), **more):
    """Findings as ``CODE Kind namespace/name``."""
    return {f"{one.code.id} {one.ref}" for one in findings(*texts, only=only, **more)}


def findings(*texts, only=(), **more):
    return analyze(corpus(*texts, **more), only=only)
