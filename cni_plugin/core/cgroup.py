"""Which pod a process belongs to, by the text of its ``/proc/PID/cgroup``.

Container runtimes put the pod's UID into the path, with ``-`` or ``_`` between its groups:
``/kubepods/burstable/pod<uid>/<container>`` (cgroupfs) or
``/kubepods.slice/kubepods-pod<uid with _>.slice/cri-containerd-<container>.scope`` (systemd).
"""

from __future__ import annotations

import re
from typing import Final

_UID: Final = re.compile(
    r"[^0-9a-zA-Z]pod"
    r"([0-9a-f]{8})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{12})"
    r"(?![0-9a-zA-Z])"
)


def pod_uid(text: str) -> str | None:
    """The pod's UID, or None for a process of no pod, or of several at once."""
    found = set()
    for line in text.splitlines():
        parts = line.split(":", 2)  # hierarchy, controllers, path
        if len(parts) == 3:
            found |= {"-".join(match.groups()) for match in _UID.finditer(parts[2])}
    return found.pop() if len(found) == 1 else None
