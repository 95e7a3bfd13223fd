"""A manifest whose comments say which of its values may be chosen.

| comment | meaning |
| --- | --- |
| ``key: VALUE  # <path.to.value> reason`` | another value may stand here; this one is the default |
| ``name: NAME  # <~>`` | a revision other than ``default`` appends its name |
| ``# <env path.to.map> reason`` | one more ``{name, value}`` entry for each of the map |
| ``# <map path.to.map> reason`` | one more ``key: value`` for each of the map, values are texts |

A value keeps its kind: where the manifest has a text, numbers and booleans become texts. The word
``istio-system`` stands for the namespace of the installation, wherever it appears.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import yaml

from ambientctl.manifests.values import Json, lookup

SYSTEM_NAMESPACE: Final = "istio-system"
REVISION: Final = "revision"
DEFAULT_REVISION: Final = "default"

_MARK: Final = re.compile(
    r"^(?P<head>\s*(?:- )?[\w./-]+: )(?P<value>.*?)\s+# <(?P<path>~|[a-z][\w.]*)>(?P<reason>.*)$",
    re.IGNORECASE,
)
_MAP: Final = re.compile(
    r"^(?P<indent>\s*)# <(?P<form>env|map) (?P<path>[a-z][\w.]*)>(?P<reason>.*)$", re.IGNORECASE
)


class Choice(NamedTuple):
    """A value that may be chosen; ``reason`` is the comment's text, maybe empty."""

    path: str
    default: Json
    reason: str


def choices(text: str) -> Iterator[Choice]:
    """What may be chosen in a manifest; a path may come several times."""
    for line in text.splitlines():
        if marked := _MARK.match(line):
            if marked["path"] != "~":
                yield Choice(marked["path"], _default(marked["value"]), marked["reason"].strip())
        elif more := _MAP.match(line):
            yield Choice(more["path"], {}, more["reason"].strip())


def _default(literal: str) -> Json:
    """A number or boolean in quotes is a text only to Kubernetes, not to whoever chooses it."""
    value = yaml.safe_load(literal)
    plain = yaml.safe_load(value) if isinstance(value, str) and value else value
    return plain if isinstance(plain, bool | int) else value


def render(text: str, values: Mapping[str, Any], namespace: str = SYSTEM_NAMESPACE) -> str:
    """The manifest with these values (complete: see ``values.merge``)."""
    lines = [
        rendered
        for line in text.splitlines()
        for rendered in _rendered(line.replace(SYSTEM_NAMESPACE, namespace), values, namespace)
    ]
    return "\n".join(lines) + "\n"


def _rendered(line: str, values: Mapping[str, Any], namespace: str) -> Iterator[str]:
    if marked := _MARK.match(line):
        if marked["path"] == "~":
            revision = values[REVISION]
            suffix = "" if revision == DEFAULT_REVISION else f"-{revision}"
            yield f"{marked['head']}{marked['value']}{suffix}"
            return
        value = lookup(values, marked["path"])
        if isinstance(yaml.safe_load(marked["value"]), str):
            value = as_text(value).replace(SYSTEM_NAMESPACE, namespace)
        yield marked["head"] + json.dumps(value)
    elif more := _MAP.match(line):
        for name, value in sorted(lookup(values, more["path"]).items()):
            text = as_text(value)
            entry = f"{json.dumps(name)}: {json.dumps(text)}"
            if more["form"] == "env":
                entry = f"- {json.dumps({'name': name, 'value': text})}"
            yield f"{more['indent']}{entry}"
    else:
        yield line


def as_text(value: Json) -> str:
    """A scalar as Kubernetes expects it in a text field."""
    return value if isinstance(value, str) else json.dumps(value)


def to_helm(text: str) -> str:
    """The same manifest as a template of Helm."""
    return "\n".join(_helm(line) for line in text.splitlines()) + "\n"


def _helm(line: str) -> str:
    namespace = "{{ .Release.Namespace }}"
    if marked := _MARK.match(line):
        if marked["path"] == "~":
            name = marked["value"].replace(SYSTEM_NAMESPACE, namespace)
            return f'{marked["head"]}{name}{{{{ include "revision" . }}}}'
        value = f".Values.{marked['path']}"
        if isinstance(yaml.safe_load(marked["value"]), str):
            value += f' | toString | replace "{SYSTEM_NAMESPACE}" .Release.Namespace'
        return f"{marked['head']}{{{{ {value} | toJson }}}}"
    if more := _MAP.match(line):
        item = "{{ $name | toJson }}: {{ $value | toString | toJson }}"
        if more["form"] == "env":
            item = "- {name: {{ $name | toJson }}, value: {{ $value | toString | toJson }}}"
        indent = more["indent"]
        return (
            f"{indent}{{{{- range $name, $value := .Values.{more['path']} }}}}\n"
            f"{indent}{item}\n"
            f"{indent}{{{{- end }}}}"
        )
    return line.replace(SYSTEM_NAMESPACE, namespace)
