"""The root of the node's cgroup hierarchy of version 2, where BPF programs see every process."""

from __future__ import annotations

import os
from typing import Final

from ambient.api.errors import MeshError

_PLACES: Final = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
"""Where it is mounted when it is alone, and when version 1 is there too."""


def open_root(proc_dir: str) -> int:
    """A descriptor of it, by the file system of the node's first process; the caller closes it.

    Raises MeshError.
    """
    for base in (f"{proc_dir}/1/root", ""):
        for place in _PLACES:
            path = f"{base}/{place}"
            if _is_root(path):
                return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    raise MeshError(
        "the root of a cgroup hierarchy of version 2 is not mounted",
        hint="mount the node's /sys/fs/cgroup, or its /proc and name it in PROC_DIR",
    )


def _is_root(path: str) -> bool:
    """Below the root, and at the root of a container's view, a group has ``cgroup.events``."""
    return os.path.exists(f"{path}/cgroup.controllers") and not os.path.exists(
        f"{path}/cgroup.events"
    )
