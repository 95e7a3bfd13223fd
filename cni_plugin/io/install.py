"""Put the plugin into the runtime's CNI configuration, keep it there, take it out."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ambient.api.errors import MeshError
from cni_plugin.core import conflist
from cni_plugin.core.conflist import Edit

PLUGIN_FILE: Final = conflist.PLUGIN_TYPE
_MAX_FILE_BYTES: Final = 1 << 20
_NEW_FILE_MODE: Final = 0o600

# -I and -S: neither the environment nor site-packages can slow the plugin down or change it.
_STARTER: Final = """#!{python} -IS
import sys
sys.path.insert(0, {root!r})
from cni_plugin.__main__ import main
main()
"""


def install(net_dir: str, entry: Mapping[str, Any], owned_file: str = "") -> bool:
    """Chain the plugin, or with ``owned_file`` put a chain with it ahead of the others'.

    True where something had to change. Raises NoConflistError while there is nothing to chain to,
    MeshError where files cannot be written.
    """
    files = _read(Path(net_dir))
    if owned_file:
        edit = conflist.insert_owned(files, entry, owned_file)
    else:
        edit = conflist.insert(files, entry)
    _perform(Path(net_dir), edit)
    return edit != conflist.NO_EDIT


def uninstall(net_dir: str, bin_dir: str) -> bool:
    """Undo ``install`` and ``install_starter``; True where something had to change."""
    edit = conflist.remove(_read(Path(net_dir)))
    _perform(Path(net_dir), edit)
    starter = Path(bin_dir) / PLUGIN_FILE if bin_dir else None
    if starter is None or not starter.exists():
        return edit != conflist.NO_EDIT
    try:
        starter.unlink()
    except OSError as error:
        raise _unwritable(starter, error) from None
    return True


def traces(net_dir: str, bin_dir: str) -> list[str]:
    """Paths of files that ``uninstall`` would change or remove. Raises MeshError."""
    edit = conflist.remove(_read(Path(net_dir)))
    found = [f"{net_dir}/{name}" for name in sorted({*edit.write, *edit.delete})]
    starter = f"{bin_dir}/{PLUGIN_FILE}"
    return [*found, starter] if bin_dir and Path(starter).exists() else found


def install_starter(bin_dir: str) -> None:
    """Write a program that starts the plugin with this interpreter. Raises MeshError."""
    root = str(Path(__file__).resolve().parents[2])
    text = _STARTER.format(python=sys.executable, root=root)
    path = Path(bin_dir) / PLUGIN_FILE
    if not path.is_file() or path.read_bytes() != text.encode():
        _write(path, text, mode=0o755)


def has_starter(bin_dir: str) -> bool:
    """Whether the runtime finds the plugin's program."""
    return not bin_dir or (Path(bin_dir) / PLUGIN_FILE).is_file()


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
        _write(folder / name, text)
    for name in edit.delete:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(folder / name, error) from None


def _write(path: Path, text: str, mode: int | None = None) -> None:
    """Replace the file in one step; runtimes read the folder at any time."""
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        if mode is None:
            mode = path.stat().st_mode & 0o777 if path.exists() else _NEW_FILE_MODE
        temporary.write_text(text)
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # a folder that is read-only has nothing of ours to remove
            temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> MeshError:
    hint = "the folder must be writable for the node agent"
    if error.errno == errno.EROFS:
        hint = "mount the node's folder into the agent without readOnly"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room on the node's disk; what was there is unchanged"
    return MeshError(f"cannot write {path}: {error.strerror}", hint=hint)
