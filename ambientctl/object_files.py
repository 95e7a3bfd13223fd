"""Kubernetes objects in YAML files, with the line of each of their fields."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from ambient.api.errors import UsageError
from istiod_lite.core.analysis.corpus import Item
from istiod_lite.core.analysis.finding import Origin
from istiod_lite.core.facts import ObjectKey, ObjectRef

STDIN: Final = "-"
SUFFIXES: Final = (".yaml", ".yml", ".json")
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
MAX_FIELDS: Final = 200_000
"""Of one object; etcd takes objects of 1.5 MiB."""
CLUSTER_WIDE: Final = frozenset(
    {
        "Namespace", "Node", "PersistentVolume", "GatewayClass", "CustomResourceDefinition",
        "ClusterRole", "ClusterRoleBinding", "ValidatingWebhookConfiguration", "PriorityClass",
        "MutatingWebhookConfiguration", "StorageClass", "IngressClass", "APIService",
    }
)  # fmt: skip
NOT_APPLIED: Final = frozenset({"Kustomization", "Component"})
"""What kustomize reads and never applies."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadFile(NamedTuple):
    """A file, or a document in it, that holds no Kubernetes object."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def files_of(paths: Iterable[str], *, recursive: bool = False) -> list[str]:
    """Folders become the YAML files in them. Raises UsageError for what does not exist."""
    found: list[str] = []
    for text in paths:
        path = Path(text)
        if text == STDIN or path.is_file():
            found.append(text)
        elif path.is_dir():
            inside = path.rglob("*") if recursive else path.glob("*")
            found += sorted(str(one) for one in inside if one.suffix in SUFFIXES and one.is_file())
        else:
            raise UsageError(f"{text} does not exist", hint="name a file, a folder, or - for stdin")
    return found


def read_files(files: Iterable[str], namespace: str) -> tuple[list[Item], list[BadFile]]:
    """All objects; ``namespace`` is given to those that need one and name none."""
    items: list[Item] = []
    bad: list[BadFile] = []
    for name in files:
        for one in read_text(name, _text(name, bad), namespace):
            if isinstance(one, Item):
                items.append(one)
            else:
                bad.append(one)
    return items, bad


def _text(name: str, bad: list[BadFile]) -> str:
    try:
        if name == STDIN:
            return sys.stdin.read(MAX_FILE_BYTES)
        path = Path(name)
        if path.stat().st_size > MAX_FILE_BYTES:
            bad.append(BadFile(name, 0, f"is larger than {MAX_FILE_BYTES >> 20} MiB"))
            return ""
        return path.read_text()
    except UnicodeDecodeError:
        bad.append(BadFile(name, 0, "is no text in UTF-8"))
    except OSError as error:
        bad.append(BadFile(name, 0, str(error.strerror)))
    return ""


def read_text(name: str, text: str, namespace: str) -> Iterator[Item | BadFile]:
    """The objects of one file; what is wrong with it is among them, and ends it."""
    loader = _LOADER(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            value = loader.construct_document(node)
            if value is not None:
                yield from _documents(name, value, node, namespace)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        yield BadFile(name, mark.line + 1 if mark else 0, f"is no YAML: {error.problem}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        yield BadFile(name, 0, f"is no YAML: {str(error).splitlines()[0]}")
    finally:
        loader.dispose()


def _documents(name: str, value: Any, node: Any, namespace: str) -> Iterator[Item | BadFile]:
    line = node.start_mark.line + 1
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        yield BadFile(name, line, "is no Kubernetes object: it has no kind")
        return
    if value["kind"].endswith("List") and isinstance(value.get("items"), list):
        nodes = next((v for k, v in node.value if k.value == "items"), None)
        for one, inner in zip(value["items"], nodes.value if nodes else (), strict=False):
            yield from _documents(name, one, inner, namespace)
        return
    if value["kind"] in NOT_APPLIED:
        return
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        yield BadFile(name, line, f"{value['kind']}: metadata.name is missing")
        return
    wide = value["kind"] in CLUSTER_WIDE
    where = "" if wide else str(metadata.get("namespace") or namespace)
    obj = value if wide else {**value, "metadata": {**metadata, "namespace": where}}
    ref = ObjectRef(value["kind"], ObjectKey(where, metadata["name"]))
    try:
        yield Item(ref, obj, Origin(name, _lines(node)))
    except _TooManyError as error:
        yield BadFile(name, line, f"{ref} {error}")


class _TooManyError(ValueError):
    """Aliases that expand to more than anybody wrote by hand."""


def _lines(node: Any) -> dict[str, int]:
    """Path of each field to its line. Raises _TooManyError."""
    found: dict[str, int] = {}
    todo = [("", node.start_mark.line + 1, node)]
    while todo:
        path, line, inner = todo.pop()
        found[path] = line
        if len(found) > MAX_FIELDS:
            raise _TooManyError(f"expands to more than {MAX_FIELDS} fields")
        if isinstance(inner, yaml.MappingNode):
            todo += [
                (f"{path}.{key.value}" if path else key.value, key.start_mark.line + 1, value)
                for key, value in inner.value
                if isinstance(key, yaml.ScalarNode)
            ]
        elif isinstance(inner, yaml.SequenceNode):
            todo += [
                (f"{path}[{number}]", value.start_mark.line + 1, value)
                for number, value in enumerate(inner.value)
            ]
    return found
