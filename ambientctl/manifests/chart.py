"""The Helm chart, made from the manifests (``make chart``)."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from ambientctl.manifests import bundle, schema, template
from ambientctl.manifests.values import put

CHART: Final = bundle.FOLDER / "charts" / "ambient-mesh"
HEADER: Final = "# Made from manifests/ by `make chart`; change it there.\n"
WITHOUT: Final = ("namespace.yaml",)
"""Helm makes the namespace itself (``--create-namespace``)."""
SCHEMA: Final = "values.schema.json"
HELPERS: Final = """\
{{- define "revision" -}}
{{- if ne .Values.revision "default" }}-{{ .Values.revision }}{{ end -}}
{{- end -}}
"""
USE_PLATFORM: Final = '{{- include "platform" . }}\n'
NOTES: Final = """\
The mesh runs in the namespace {{ .Release.Namespace }}. Next:

  kubectl label namespace NAME istio.io/dataplane-mode=ambient
  ambientctl check
"""


def files() -> dict[str, str]:
    """The chart's files by their paths in it; definitions are a link to manifests/crds."""
    made = {
        "Chart.yaml": HEADER + _chart(),
        "values.yaml": HEADER + "".join(_values()),
        SCHEMA: json.dumps(schema.schema(bundle.choices()), indent=1) + "\n",
        "templates/_helpers.tpl": HELPERS + "".join(_platforms()),
        "templates/NOTES.txt": NOTES,
    }
    for path in bundle.base_files():
        if path.name not in WITHOUT:
            text = template.to_helm(path.read_text())
            if path.name not in bundle.OF_A_REVISION:
                text = _only_if('eq .Values.revision "default"', text)
            made[f"templates/{path.name}"] = USE_PLATFORM + text
    for folder, switch in bundle.COMPONENTS.items():
        text = "---\n".join(
            template.to_helm(path.read_text()) for path in bundle.component_files(folder)
        )
        text = _only_if(f".Values.components.{switch}", text)
        made[f"templates/{folder}.yaml"] = USE_PLATFORM + text
    return made


def _platforms() -> Iterator[str]:
    """A template that puts a platform's values where the defaults still stand. Values are one map
    for all templates, in whatever order Helm renders them, so each begins with it.
    """
    defaults = {choice.path: choice.default for choice in bundle.choices()}
    yield '{{- define "platform" -}}\n'
    for name in schema.PLATFORMS:
        yield f'{{{{- if eq .Values.{schema.PLATFORM} "{name}" }}}}\n'
        for group, chosen in bundle.profile(name).items():
            for key, value in chosen.items():
                at, default = f".Values.{group}.{key}", json.dumps(defaults[f"{group}.{key}"])
                yield f"{{{{- if eq ({at} | toJson) {json.dumps(default)} }}}}"
                new = f"{json.dumps(json.dumps({'it': value}))} | fromJson"
                yield f'{{{{- $_ := set .Values.{group} "{key}" ({new}).it }}}}{{{{ end }}}}\n'
        yield "{{- end }}\n"
    yield "{{- end -}}\n"


def _only_if(condition: str, text: str) -> str:
    return f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n"


def _chart() -> str:
    version = importlib.metadata.version("ambient-mesh")
    return yaml.safe_dump(
        {
            "apiVersion": "v2",
            "name": "ambient-mesh",
            "description": "An ambient service mesh: node tunnels, CNI plugin and control plane",
            "type": "application",
            "version": version,
            "appVersion": version,
            "kubeVersion": ">=1.27.0-0",
        },
        sort_keys=False,
    )


def _values() -> Iterator[str]:
    """Each value with the reason that its manifest gives."""
    tree: dict[str, Any] = {}
    for choice in bundle.choices():
        put(tree, choice.path, choice)
    yield from _level(tree, 0)


def _level(tree: dict[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, item in tree.items():
        if isinstance(item, template.Choice):
            if item.reason:
                yield f"{indent}# {item.reason}\n"
            yield f"{indent}{key}: {json.dumps(item.default)}\n"
        else:
            yield f"{indent}{key}:\n"
            yield from _level(item, depth + 1)


def write(folder: Path = CHART) -> None:
    """Replace the chart's files."""
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    write()
