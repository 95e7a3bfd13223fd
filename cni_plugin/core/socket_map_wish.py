"""What the node's socket map carries for a pod: the agent's setting, or the pod's own word."""

from __future__ import annotations

from typing import Final, Literal

from ambient.kube.core.objects import Pod

SOCKET_MAP_ANNOTATION: Final = "ambient.istio.io/socket-map"
"""On a pod: a value of ``SocketMapWish``; it goes before the agent's setting."""

SocketMapWish = Literal["off", "send", "both"]
"""``send``: what the application sends to its tunnel; ``both``: what it receives, too."""
_WISHES: Final[tuple[SocketMapWish, ...]] = ("off", "send", "both")


def wish_of(pod: Pod, setting: SocketMapWish) -> SocketMapWish:
    """An annotation that means nothing counts as absent; ``false`` means ``off``."""
    value = pod.metadata.annotation(SOCKET_MAP_ANNOTATION)
    if value in ("false", "False", "0"):
        return "off"
    return next((wish for wish in _WISHES if wish == value), setting)
