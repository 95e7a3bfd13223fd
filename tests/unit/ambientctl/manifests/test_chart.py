"""The Helm chart as files."""

from __future__ import annotations

from pathlib import Path

import yaml

from ambientctl.manifests import bundle, chart


def test_values_are_the_defaults_with_their_reasons() -> None:
    text = chart.files()["values.yaml"]
    assert yaml.safe_load(text) == bundle.defaults()
    assert "# one may restart while the other serves\n  replicas: 2\n" in text


def test_helm_makes_the_namespace_and_a_revision_only_its_control_plane() -> None:
    files = chart.files()
    assert "templates/namespace.yaml" not in files
    begins = {path: text.splitlines()[1] for path, text in files.items()}
    assert begins["templates/ztunnel.yaml"] == '{{- if eq .Values.revision "default" }}'
    assert not begins["templates/istiod.yaml"].startswith("{{- if")
    assert begins["templates/monitoring.yaml"] == "{{- if .Values.components.monitoring }}"


def test_every_template_begins_with_the_platform_since_helm_has_its_own_order() -> None:
    for path, text in chart.files().items():
        if path.startswith("templates/") and path.endswith(".yaml"):
            assert text.startswith('{{- include "platform" . }}\n'), path


def test_writing_makes_the_folders(tmp_path: Path) -> None:
    chart.write(tmp_path / "chart")
    assert (tmp_path / "chart/templates/istiod.yaml").is_file()
