"""Which redirection a pod gets: what was asked for against what this node can do."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, NamedTuple

import msgspec

from ambient.kube.core.objects import Pod
from ambient.net.core import rules
from cni_plugin.core.enrol import capture_wishes

BACKEND_ANNOTATION: Final = "ambient.istio.io/redirection-backend"
"""On a pod: a value of ``Wish``; it goes before the agent's setting."""

Wish = Literal["nftables", "ebpf", "auto"]
"""``auto``: eBPF where the node can."""
WISHES: Final[tuple[Wish, ...]] = ("nftables", "ebpf", "auto")


class Backend(StrEnum):
    """What redirects a pod."""

    NFTABLES = "nftables"
    EBPF = "ebpf"


class Capture(NamedTuple):
    """How a pod is captured, as its annotations and the agent's settings have it."""

    options: rules.Options
    wish: Wish


class Choice(NamedTuple):
    """What the pod gets, and why it is not what was asked for (empty where it is)."""

    backend: Backend
    reason: str = ""
    hint: str = ""


def capture_of(pod: Pod, settings: Capture) -> Capture:
    """The agent's settings with the pod's annotations over them.

    A value of an annotation that means nothing counts as absent.
    """
    wishes = capture_wishes(pod)
    value = pod.metadata.annotation(BACKEND_ANNOTATION)
    options = msgspec.structs.replace(
        settings.options,
        inbound=wishes.inbound,
        dns=settings.options.dns if wishes.dns is None else wishes.dns,
        virtual_interfaces=wishes.virtual_interfaces,
    )
    return Capture(options, next((wish for wish in WISHES if wish == value), settings.wish))


def choose(capture: Capture, unavailable: str, hint: str = "") -> Choice:
    """``unavailable``: why the node has no eBPF; empty where it has."""
    if capture.wish == "nftables":
        return Choice(Backend.NFTABLES)
    if unavailable:
        return Choice(Backend.NFTABLES, unavailable, hint)
    if capture.options.virtual_interfaces:
        return Choice(
            Backend.NFTABLES,
            "traffic of virtual interfaces is forwarded, and eBPF sees sockets only",
            "without the annotation istio.io/reroute-virtual-interfaces the pod can have eBPF",
        )
    return Choice(Backend.EBPF)
