"""One file per pod, ``<run dir>/pods/<pod uid>.json``: where the pod's network namespace is.

The plugin writes it when the pod starts; the agent, also one that is started later, finds the
namespace by it. Standard library only, because the plugin imports it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple


class Record(NamedTuple):
    """What the runtime told about one pod sandbox."""

    uid: str
    """Empty where the runtime does not tell it; the agent then goes by name."""
    name: str
    namespace: str
    container_id: str
    netns: str
    """Path, as the runtime sees it."""
    device: int
    inode: int
    """Which namespace it was: a path, or the process in it, may be another one's by now."""
    ips: tuple[str, ...]


def folder(run_dir: str) -> str:
    return f"{run_dir}/pods"


def write(run_dir: str, record: Record) -> None:
    """Replace the pod's record in one step. Raises OSError."""
    os.makedirs(folder(run_dir), mode=0o700, exist_ok=True)
    path = _path(run_dir, record)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(record._asdict(), file)
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def remove(run_dir: str, record: Record) -> None:
    """Remove a record; harmless when repeated. Raises OSError."""
    path = _path(run_dir, record)
    if os.path.exists(path):
        os.unlink(path)


def read(run_dir: str, uid: str) -> Record | None:
    """The record of a pod by its UID; None where the runtime did not tell it, or there is none."""
    try:
        with open(f"{folder(run_dir)}/{uid}.json", encoding="utf-8") as file:
            return _record(json.load(file))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def read_all(run_dir: str) -> Iterator[Record]:
    """Every readable record; a damaged one is passed over, the pod is then found by its cgroup."""
    try:
        names = sorted(os.listdir(folder(run_dir)))
    except FileNotFoundError:
        return
    for name in names:
        if not name.endswith(".json"):
            continue
        try:
            with open(f"{folder(run_dir)}/{name}", encoding="utf-8") as file:
                yield _record(json.load(file))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue


def _path(run_dir: str, record: Record) -> str:
    return f"{folder(run_dir)}/{record.uid or record.container_id}.json"


def _record(data: dict[str, Any]) -> Record:
    return Record(
        uid=str(data["uid"]),
        name=str(data["name"]),
        namespace=str(data["namespace"]),
        container_id=str(data["container_id"]),
        netns=str(data["netns"]),
        device=int(data["device"]),
        inode=int(data["inode"]),
        ips=tuple(str(ip) for ip in data["ips"]),
    )
