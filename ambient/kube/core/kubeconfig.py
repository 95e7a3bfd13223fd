"""Kubeconfig files: which cluster, as whom. Files that are merged and a context that is chosen, as
kubectl does it (client-go tools/clientcmd). Pure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

NAMESPACE: Final = "default"
EXTERNAL: Final = ("exec", "auth-provider")
"""Users for whom a program or a provider has the credentials."""


class KubeconfigError(ValueError):
    """What is wrong in the files; the text shows no secret."""


class Section(NamedTuple):
    """A cluster or a user, and the folder that its relative paths begin at."""

    fields: Mapping[str, Any]
    folder: Path

    def text(self, name: str) -> str:
        """A field, or nothing. Raises KubeconfigError where it is no text."""
        value = self.fields.get(name)
        if value is None:
            return ""
        if not isinstance(value, str | int | float):
            raise KubeconfigError(f"field {name} is no text")
        return str(value)

    def path(self, name: str) -> Path | None:
        """A file that a field names."""
        text = self.text(name)
        return self.folder / Path(text).expanduser() if text else None

    def data(self, name: str) -> bytes | None:
        """What ``NAME-data`` holds. Raises KubeconfigError where it is no base64."""
        text = self.text(f"{name}-data")
        try:
            return base64.b64decode(text, validate=True) if text else None
        except (binascii.Error, ValueError):
            raise KubeconfigError(f"field {name}-data is no base64") from None


class Context(NamedTuple):
    """What a context stands for."""

    cluster: Section
    user: Section
    namespace: str

    @property
    def external(self) -> bool:
        """Whether somebody else must be asked for the credentials."""
        return any(self.user.fields.get(name) for name in EXTERNAL)


def choose(documents: Sequence[tuple[Path, object]], context: str | None) -> Context:
    """The named context, or the current one, of files that count in this order: who says something
    first is right. Raises KubeconfigError.
    """
    files = [(path, _mapping(document, "a kubeconfig")) for path, document in documents]
    current = next((c for _, one in files if (c := one.get("current-context"))), None)
    name = context or current
    if not name:
        raise KubeconfigError("no context is chosen: it has no current-context")
    found = _named(files, "context", str(name))
    chosen = _section(found, "context", str(name))
    cluster_name = str(chosen.fields.get("cluster") or "")
    cluster = _section(_named(files, "cluster", cluster_name), "cluster", cluster_name)
    if not cluster.text("server"):
        raise KubeconfigError(f"cluster {cluster_name} has no server")
    user_name = str(chosen.fields.get("user") or "")
    user = Section({}, cluster.folder)
    if user_name:
        user = _section(_named(files, "user", user_name), "user", user_name)
    return Context(cluster, user, chosen.text("namespace") or NAMESPACE)


def context_names(documents: Sequence[tuple[Path, object]]) -> list[str]:
    """Every context that can be chosen. Raises KubeconfigError."""
    files = [(path, _mapping(document, "a kubeconfig")) for path, document in documents]
    return sorted({str(entry.get("name")) for _, entry in _entries(files, "context", None)})


def impersonation(user: Section) -> list[tuple[str, str]]:
    """Headers of a user that speaks for somebody else (``as``, ``as-uid``, ``as-groups``,
    ``as-user-extra``). Raises KubeconfigError.
    """
    extra = _mapping(user.fields.get("as-user-extra") or {}, "as-user-extra")
    pairs = [
        ("Impersonate-User", user.text("as")),
        ("Impersonate-Uid", user.text("as-uid")),
        *(("Impersonate-Group", str(group)) for group in user.fields.get("as-groups") or ()),
        *(
            (f"Impersonate-Extra-{quote(str(key).lower(), safe='')}", str(value))
            for key, values in extra.items()
            for value in (values if isinstance(values, list) else [values])
        ),
    ]
    return [(name, value) for name, value in pairs if value]


def _section(found: tuple[Path, Mapping[str, Any]], kind: str, name: str) -> Section:
    path, entry = found
    return Section(_mapping(entry.get(kind) or {}, f"{kind} {name}"), path.parent)


def _named(
    files: Sequence[tuple[Path, Mapping[str, Any]]], kind: str, name: str
) -> tuple[Path, Mapping[str, Any]]:
    for found in _entries(files, kind, name):
        return found
    there = sorted({str(entry.get("name")) for _, entry in _entries(files, kind, None)})
    hint = f"; there are {', '.join(there)}" if there and kind == "context" else ""
    raise KubeconfigError(f"there is no {kind} {name or 'in the context'}{hint}")


def _entries(
    files: Sequence[tuple[Path, Mapping[str, Any]]], kind: str, name: str | None
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for path, file in files:
        entries = file.get(f"{kind}s") or []
        if not isinstance(entries, list):
            raise KubeconfigError(f"{kind}s is no list")
        for entry in entries:
            if name is None or _mapping(entry, f"an entry of {kind}s").get("name") == name:
                yield path, _mapping(entry, f"an entry of {kind}s")


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise KubeconfigError(f"{what} is no mapping")
    return value
