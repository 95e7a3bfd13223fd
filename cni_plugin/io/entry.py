"""What the node agent keeps about one pod."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

import trio

from ambient.api.address import IPAddress, canonical
from ambient.kube.core.objects import Pod
from ambient.net.io.netns import Netns
from cni_plugin.core.backend import Backend, Capture
from cni_plugin.core.reconcile import Phase


class Entry:
    """One pod: what is known of it and how far it is."""

    def __init__(self, uid: str) -> None:
        self.uid: Final = uid
        self.pod: Pod | None = None
        self.phase = Phase.OUT
        self.netns: Netns | None = None
        self.capture: Capture | None = None
        """What the redirection of the pod was made from, while it is enrolled."""
        self.backend: Backend | None = None
        self.could_have_ebpf = False
        """What stood in its way has gone."""
        self.probed: frozenset[IPAddress] = frozenset()
        """Its addresses in the node's set, while it is enrolled."""
        self.told_ips: tuple[str, ...] = ()
        """By the plugin: the API server learns the addresses only when the pod has started."""
        self.member_from_start: bool | None = None
        """Whether it was in the mesh by its labels when it was first seen running; see
        ``core.repair``. None until then."""
        self.seen_by_plugin = False
        self.evicted = False
        """It is about to end, and another pod starts in its place."""
        self.lock = trio.Lock()
        """Held by whoever changes the pod's rules or phase."""
        self.woken = trio.Event()
        self.working = False
        self.drains_until = 0.0

    @property
    def name(self) -> str:
        """The pod as people write it."""
        if self.pod is None:
            return self.uid
        return f"{self.pod.metadata.namespace}/{self.pod.metadata.name}"

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """The pod's addresses, as far as they are known."""
        texts = (self.pod.ips if self.pod is not None else ()) or self.told_ips
        return frozenset(canonical(ip_address(text)) for text in texts)

    def release_netns(self) -> None:
        """Let go of the namespace, which would otherwise outlive its pod."""
        if self.netns is not None:
            self.netns.close()
            self.netns = None
