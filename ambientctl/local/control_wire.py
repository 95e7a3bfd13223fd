"""What both ends of the control socket must agree on."""

from __future__ import annotations

from typing import Final

SOCKET_NAME: Final = "control.sock"
MAX_MESSAGE_BYTES: Final = 1 << 17
"""A request; the answer to ``status`` may be longer."""


def owner_name(pod: str) -> str:
    """``reviews-v1`` for ``reviews-v1-5d4f8c7b9-x2x2x`` and ``ztunnel`` for ``ztunnel-abcde``.

    Names come from controllers: a ReplicaSet's hash and five characters, or only the latter.
    """
    parts = pod.rsplit("-", 2)
    hashed = len(parts) == 3 and len(parts[1]) >= 8 and any(c.isdigit() for c in parts[1])
    return parts[0] if hashed else pod.rsplit("-", 1)[0]
