"""Put the plugin into the runtime's CNI configuration, keep it there, take it out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ambient.api.errors import MeshError
from cni_plugin.core import conflist
from cni_plugin.core import rival as core_rival
from cni_plugin.core.conflist import Edit
from cni_plugin.core.rival import Rival
from cni_plugin.io import files

_MAX_FILE_BYTES: Final = 1 << 20


def install(net_dir: str, entry: Mapping[str, Any], owned_file: str = "") -> bool:
    """Chain the plugin, or with ``owned_file`` put a chain with it ahead of the others'.

    True where something had to change. Raises NoConflistError while there is nothing to chain to,
    MeshError where files cannot be written.
    """
    there = _read(Path(net_dir))
    if owned_file:
        edit = conflist.insert_owned(there, entry, owned_file)
    else:
        edit = conflist.insert(there, entry)
    _perform(Path(net_dir), edit)
    return edit != conflist.NO_EDIT


def uninstall(net_dir: str) -> bool:
    """Undo ``install``; True where something had to change. Raises MeshError."""
    edit = conflist.remove(_read(Path(net_dir)))
    _perform(Path(net_dir), edit)
    return edit != conflist.NO_EDIT


def traces(net_dir: str) -> list[str]:
    """Paths of files that ``uninstall`` would change or remove. Raises MeshError."""
    edit = conflist.remove(_read(Path(net_dir)))
    return [f"{net_dir}/{name}" for name in sorted({*edit.write, *edit.delete})]


def rival(net_dir: str, *, only_if_put_aside: bool) -> Rival | None:
    """Who it is that undoes our changes. Raises MeshError."""
    files = _read(Path(net_dir))
    return None if only_if_put_aside and not core_rival.put_aside(files) else core_rival.find(files)


def signature(net_dir: str) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever somebody changes the folder's files; cheap to compare."""
    try:
        with os.scandir(net_dir) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except OSError:
        return ()
    return tuple(sorted((name, info.st_mtime_ns, info.st_size) for name, info in found))


def _read(folder: Path) -> dict[str, bytes]:
    try:
        paths = [path for path in folder.iterdir() if path.is_file()]
        return {path.name: path.read_bytes()[:_MAX_FILE_BYTES] for path in paths}
    except OSError as error:
        raise MeshError(
            f"cannot read the CNI configuration folder {folder}: {error.strerror}",
            hint="CNI_NET_DIR must be the node's folder, mounted into the agent",
        ) from None


def _perform(folder: Path, edit: Edit) -> None:
    for name, text in edit.write.items():
        files.replace(folder / name, text)
    for name in edit.delete:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise files.unwritable(folder / name, error) from None
