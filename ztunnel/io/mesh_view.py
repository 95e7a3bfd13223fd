"""The mesh state of this process, and a way to wait for it to change."""

from __future__ import annotations

from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.api.workload import Workload
from ambient.net.core.wire import Add
from ambient.state.core.mesh import MeshState

WORKLOAD_WAIT_S: Final = 5.0  # ztunnel's, per connection


class UnknownWorkloadError(MeshError):
    """The control plane has not told about one of our own pods."""

    def __init__(self, info: Add) -> None:
        super().__init__(
            f"unknown workload {info.namespace}/{info.name} ({info.service_account})",
            hint="is the control plane reachable, and does it see this pod with an address?",
        )


class MeshView:
    """One writer (the xDS session), many readers; all on one thread."""

    def __init__(self, state: MeshState, network: str, node: str = "", cluster: str = "") -> None:
        self.state: Final = state
        self.network: Final = network
        self._home = (cluster, node)
        self._changed = trio.Event()
        self.version = 0
        """Another number after every change."""

    def notify(self) -> None:
        """The state has changed."""
        self.version += 1
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    def find(self, info: Add) -> Workload | None:
        """Our pod as the control plane knows it: name, namespace and account must all agree.

        Other clusters may have a pod of the same name; the one on our own node is ours.
        """
        found = [
            one
            for one in self.state.workloads_of_pod(info.namespace, info.name)
            if one.service_account == info.service_account
        ]
        return max(found, key=lambda one: (one.cluster_id, one.node) == self._home, default=None)
