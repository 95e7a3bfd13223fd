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
    assert files["templates/ztunnel.yaml"].startswith('{{- if eq .Values.revision "default" }}')
    assert not files["templates/istiod.yaml"].startswith("{{- if")
    assert files["templates/monitoring.yaml"].startswith("{{- if .Values.components.monitoring }}")


def test_writing_makes_the_folders(tmp_path: Path) -> None:
    chart.write(tmp_path / "chart")
    assert (tmp_path / "chart/templates/istiod.yaml").is_file()
