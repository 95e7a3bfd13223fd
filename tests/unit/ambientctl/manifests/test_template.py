"""Manifests with marked values: which there are, and what becomes of them."""

from __future__ import annotations

import pytest
import yaml

from ambientctl.manifests import template
from ambientctl.manifests.template import Choice

TEXT = """\
# A comment with <angles> that marks nothing.
metadata:
  name: istiod  # <~>
  namespace: istio-system
spec:
  replicas: 2  # <istiod.replicas> one may restart
  strategy: {maxSurge: 1}
  env:
  - name: WAYPOINTS
    value: "2"  # <waypoint.replicas>
  - name: ADDRESS
    value: https://istiod.istio-system.svc  # <address>
  # <env istiod.env> more
  labels:
    # <map istiod.labels> others
    app: istiod
  resources: {requests: {cpu: 1}}  # <istiod.resources>
"""
VALUES = {
    "revision": "default",
    "istiod": {"replicas": 2, "resources": {"requests": {"cpu": 1}}, "env": {}, "labels": {}},
    "waypoint": {"replicas": 2},
    "address": "https://istiod.istio-system.svc",
}


def test_the_choices_of_a_manifest() -> None:
    assert list(template.choices(TEXT)) == [
        Choice("istiod.replicas", 2, "one may restart"),
        Choice("waypoint.replicas", 2, ""),
        Choice("address", "https://istiod.istio-system.svc", ""),
        Choice("istiod.env", {}, "more"),
        Choice("istiod.labels", {}, "others"),
        Choice("istiod.resources", {"requests": {"cpu": 1}}, ""),
    ]


def test_with_its_defaults_a_manifest_stays_what_it_was() -> None:
    assert yaml.safe_load(template.render(TEXT, VALUES)) == yaml.safe_load(TEXT)


def test_chosen_values_keep_the_kind_of_the_field() -> None:
    values = VALUES | {"waypoint": {"replicas": 3}, "revision": "canary"}
    more = {"env": {"B": True, "A": 'say "x"'}, "labels": {"team": 7, "a/b": "c"}}
    values["istiod"] = {"replicas": 5, "resources": {}, **more}
    loaded = yaml.safe_load(template.render(TEXT, values))
    assert loaded["metadata"]["name"] == "istiod-canary"
    assert loaded["spec"]["replicas"] == 5
    assert loaded["spec"]["env"] == [
        {"name": "WAYPOINTS", "value": "3"},
        {"name": "ADDRESS", "value": "https://istiod.istio-system.svc"},
        {"name": "A", "value": 'say "x"'},
        {"name": "B", "value": "true"},
    ]
    assert loaded["spec"]["labels"] == {"app": "istiod", "a/b": "c", "team": "7"}
    assert loaded["spec"]["resources"] == {}


def test_another_namespace_is_meant_everywhere() -> None:
    loaded = yaml.safe_load(template.render(TEXT, VALUES, "mesh"))
    assert loaded["metadata"]["namespace"] == "mesh"
    assert loaded["spec"]["env"][1]["value"] == "https://istiod.mesh.svc"


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("  replicas: 2  # <a.b> why", "  replicas: {{ .Values.a.b | toJson }}"),
        (
            '  value: "2"  # <a>',
            '  value: {{ .Values.a | toString | replace "istio-system" .Release.Namespace'
            " | toJson }}",
        ),
        ("  name: istiod  # <~>", '  name: istiod{{ include "revision" . }}'),
        ("  namespace: istio-system", "  namespace: {{ .Release.Namespace }}"),
        ("- port: 1 # <not a mark>", "- port: 1 # <not a mark>"),
    ],
)
def test_lines_for_helm(line: str, made: str) -> None:
    assert template.to_helm(line) == made + "\n"


def test_a_map_for_helm_is_a_range() -> None:
    assert template.to_helm("  # <env a.env>") == (
        "  {{- range $name, $value := .Values.a.env }}\n"
        "  - {name: {{ $name | toJson }}, value: {{ $value | toString | toJson }}}\n"
        "  {{- end }}\n"
    )
    assert "\n  {{ $name | toJson }}: {{ $value | toString | toJson }}\n" in template.to_helm(
        "  # <map a.labels>"
    )
