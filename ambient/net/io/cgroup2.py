"""The node's cgroup hierarchy of version 2; at its root BPF programs see every process."""

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


def is_below_root(path: str) -> bool:
    """Whether it is a group of version 2, and not the one that everybody is in."""
    return all(os.path.exists(f"{path}/{name}") for name in ("cgroup.controllers", "cgroup.events"))


def processes(path: str) -> set[int]:
    """Everybody in the group and the groups below, as far as this process sees them."""
    found: set[int] = set()
    for folder, _, _ in os.walk(path):
        try:
            with open(f"{folder}/cgroup.procs") as lines:
                found.update(map(int, lines))
        except OSError:
            continue  # removed meanwhile, or its threads are counted elsewhere
    return found - {0}
