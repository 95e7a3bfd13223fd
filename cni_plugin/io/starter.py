"""The plugin's program in the runtime's folder: a script that names its own interpreter.

On a machine where the agent runs without a container that is the agent's. A cluster's node may
have no Python; there the program comes with one (``cni_plugin.runtime_tree``), which lies in a
hidden folder beside it. The kernel starts a script with one argument from its first line, so that
line can name the tree's loader and the tree's Python: nothing of the node is used.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ambient.api.errors import MeshError
from cni_plugin import runtime_tree
from cni_plugin.core.conflist import PLUGIN_TYPE
from cni_plugin.io import files

TREE_PREFIX: Final = f".{PLUGIN_TYPE}-"
LONGEST_FIRST_LINE: Final = 255
"""Bytes; the kernel cuts the rest off (BINPRM_BUF_SIZE, Linux 5.1)."""

# -I and -S: neither the environment nor site-packages can slow the plugin down or change it. With
# a tree there is no room for options, and no site-packages.
_OWN: Final = "#!{python} -IS\n"
_TREE: Final = "#!{tree}/{loader} {tree}/{program}\n"
_SCRIPT: Final = """import sys
sys.path.insert(0, {root!r})
from cni_plugin.__main__ import main
main()
"""


def install(bin_dir: str, runtime: str = "", node_bin_dir: str = "") -> None:
    """Write the program where it is not there as it should be.

    ``runtime`` is the folder with an interpreter to bring along; empty: this process's. The node
    sees ``bin_dir`` as ``node_bin_dir`` (empty: under the same name). The tree of the version
    before stays until the next change: a plugin may be running from it. Raises MeshError.
    """
    folder = Path(bin_dir)
    text, tree = _text(runtime, node_bin_dir or bin_dir)
    path = folder / PLUGIN_TYPE
    there = path.read_bytes() if path.is_file() else b""
    if there == text.encode() and (not tree or (folder / tree).is_dir()):
        return
    if tree:
        _bring(Path(runtime), folder / tree)
    files.replace(path, text, mode=0o755)
    for old in _trees(folder):
        if old.name != tree and f"/{old.name}/".encode() not in there:
            shutil.rmtree(old, ignore_errors=True)


def installed(bin_dir: str) -> bool:
    """Whether the runtime finds the program; True where it finds it without us."""
    return not bin_dir or (Path(bin_dir) / PLUGIN_TYPE).is_file()


def uninstall(bin_dir: str) -> bool:
    """Remove the program and all trees; True where there were any. Raises MeshError."""
    found = [Path(path) for path in traces(bin_dir)]
    for path in found:
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise files.unwritable(path, error) from None
    return bool(found)


def traces(bin_dir: str) -> list[str]:
    """Paths that ``uninstall`` would remove."""
    if not bin_dir:
        return []
    path = Path(bin_dir) / PLUGIN_TYPE
    return [*([str(path)] if path.exists() else []), *map(str, _trees(Path(bin_dir)))]


def _text(runtime: str, node_bin_dir: str) -> tuple[str, str]:
    """The program, and the name of its tree."""
    if not runtime:
        root = str(Path(__file__).resolve().parents[2])
        return _OWN.format(python=sys.executable) + _SCRIPT.format(root=root), ""
    try:
        name = TREE_PREFIX + (Path(runtime) / runtime_tree.DIGEST).read_text()
    except OSError as error:
        raise MeshError(
            f"{runtime} holds no interpreter for the plugin: {error.strerror}",
            hint="make it with `python -m cni_plugin.runtime_tree FOLDER`, as the image does",
        ) from None
    tree = f"{node_bin_dir.rstrip('/')}/{name}"
    first = _TREE.format(tree=tree, loader=runtime_tree.LOADER, program=runtime_tree.PROGRAM)
    if len(first) > LONGEST_FIRST_LINE:
        raise MeshError(
            f"the folder's name {node_bin_dir} is too long for a script's first line",
            hint="set CNI_BIN_DIR to a shorter name of the same folder",
        )
    return first + _SCRIPT.format(root=f"{tree}/{runtime_tree.CODE}"), name


def _bring(runtime: Path, tree: Path) -> None:
    """Copy the interpreter; it appears under its name when it is complete."""
    if tree.is_dir():
        return
    unfinished = tree.with_name(f"{tree.name}.tmp")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()  # the runtime's folder itself is never ours to make
        shutil.copytree(runtime, unfinished, dirs_exist_ok=True)
        unfinished.rename(tree)
    except shutil.Error as error:  # one entry for each file: (source, target, reason)
        shutil.rmtree(unfinished, ignore_errors=True)
        raise MeshError(
            f"cannot copy the plugin's interpreter to {tree}: {error.args[0][0][2]}",
            hint="the folder must be writable for the node agent, and have 60 MB of room",
        ) from None
    except OSError as error:
        raise files.unwritable(tree, error) from None


def _trees(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob(f"{TREE_PREFIX}*") if path.is_dir())
