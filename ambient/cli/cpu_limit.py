"""How many CPUs the container that we run in may use: its cgroup's quota (versions 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
"""Lines of ``number:controllers:path``; version 2 is ``0::path``."""


def cpu_limit(cgroups: Path = CGROUPS, own: Path = OWN) -> float | None:
    """The smallest quota of our cgroup and of those above it, in CPUs; None without any."""
    quotas = [quota for folder in _folders(cgroups, own) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(cgroups: Path, own: Path) -> Iterator[Path]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [cgroups, cgroups / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [cgroups / "cpu", cgroups / controllers]
        else:
            continue
        inside = Path(path.lstrip("/"))
        for mount in mounts:
            for level in (inside, *inside.parents):
                yield mount / level


def _quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None  # "max", -1
    return int(quota) / int(period)
