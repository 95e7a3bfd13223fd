"""Tables of the reference say what the code does, no more and no less."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambient.telemetry.core import metric_names
from docs.reference import metrics
from docs.reference.__main__ import pages
from tests.docs.shell import ROOT

PACKAGES = ("ambient", "ztunnel", "waypoint", "cni_plugin", "istiod_lite", "ambientctl")
KEY = re.compile(r"^(?:[a-z0-9-]+\.)*(?:istio\.io|ambient-mesh\.io)/[\w.-]*\w$|^istio-injection$")
NOT_ON_OBJECTS = {
    "istio.io/Accepted", "istio.io/VisibilityApplied", "istio.io/WaypointBound",
    "istio.io/WaypointMissing", "istio.io/PROXY", "istio.io/ca-root", "istio.io/debug",
    "istio.io/gateway-controller", "istio.io/mesh-controller", "istio.io/unmanaged-gateway",
    "mesh.istio.io/v1alpha1", "security.istio.io/v1", "networking.istio.io/ServiceEntry",
    "networking.istio.io/WorkloadEntry",
}  # fmt: skip
"""Conditions, names of controllers and classes, API versions and kinds."""
OF_OTHERS = {
    "gateway.istio.io/tls-terminate-mode", "internal.istio.io/webhook-always-reject",
    "istio.io/autoRegistrationGroup", "istio.io/gateway-name", "istio.io/key",
    "traffic.istio.io/nodeSelector", "traffic.sidecar.istio.io/kubevirtInterfaces",
}  # fmt: skip
"""Known so that nobody is told that they are misspelt; they have no effect here."""


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_a_page_is_that_of_the_code(page: Path) -> None:
    assert page.read_text() == pages()[page], "run make reference"


def test_every_metric_has_a_row() -> None:
    rows = {row.name.removesuffix("_total") for row in (*metrics.ZTUNNEL, *metrics.WAYPOINT)}
    declared = {
        value
        for name, value in vars(metric_names).items()
        if name.isupper() and isinstance(value, str) and name != "UNKNOWN"
    }
    assert declared - rows == set()


def strings() -> Iterator[str]:
    """All texts in the sources but those of the generated and of the stand-in API server."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if {"pb", "apiserver"} & set(path.parts):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_labels_and_annotations_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "reference" / "labels.md").read_text()
    told = {key for key in re.findall(r"`([^`]+)`", text) if KEY.match(key)}
    used = {key for key in strings() if KEY.match(key)} - NOT_ON_OBJECTS - OF_OTHERS
    assert used - told == set(), "in the code only"
    assert told - used == set(), "on the page only"
