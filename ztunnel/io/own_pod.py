"""Our own pod in the mesh: 15008 in our own network namespace, so that 15020 is scraped by mTLS."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ambient.api.ports import HBONE_PORT
from ambient.net.core.wire import Add
from ambient.net.io.netns import OwnNetns
from ambient.net.io.sockets import ListenOptions
from ztunnel.io.dns import DnsProxy
from ztunnel.io.node import Node, PodParts
from ztunnel.io.pod import Pod


class OwnPod(Pod):
    """Takes HBONE only: nothing is captured in our namespace, and no client's address is taken."""

    @property
    def name(self) -> str:
        """For the log."""
        return f"{self.info.namespace}/{self.info.name}"

    def _ports(self) -> dict[int, ListenOptions]:
        return {HBONE_PORT: ListenOptions(reuse_port=False, transparent=False)}

    def _dns(self, parts: PodParts) -> AbstractContextManager[DnsProxy | None]:
        return nullcontext()

    def _keeps_source(self) -> bool:
        return False


def own_pod(node: Node) -> OwnPod:
    """Of the process. Raises OSError."""
    settings = node.settings
    account = settings.service_account
    info = Add("ztunnel", settings.pod_name, settings.pod_namespace, account)
    return OwnPod(node, info, OwnNetns.open_own())
