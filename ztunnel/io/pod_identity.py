"""Which workload a pod's network namespace is: the one claim that everything else relies on.

The node agent names a pod (UID, name, account) and hands over a namespace; the control plane knows
a workload of that name and account, and its addresses. The two are the same pod only if one of the
addresses is really in the namespace. Otherwise a namespace that was mixed up, or a pod that was
replaced under its old name, would speak with another pod's identity.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

import trio

from ambient.api.address import IPAddress
from ambient.api.errors import MeshError
from ambient.api.workload import Workload
from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ztunnel.io.mesh_view import WORKLOAD_WAIT_S, MeshView, UnknownWorkloadError

_LOOK_S: Final = 0.2
"""How often addresses are looked for anew: an IPv6 address is tentative for about a second."""


class ForeignNamespaceError(MeshError):
    """The namespace that we serve for a pod is not that pod's."""

    def __init__(self, info: Add, workload: Workload, netns: Netns) -> None:
        addresses = ", ".join(map(str, workload.addresses))
        super().__init__(
            f"network namespace {netns.key[1]} was handed over as pod {info.namespace}/{info.name}"
            f" (uid {info.uid}), but has none of its addresses ({addresses})",
            hint="was the pod replaced? Otherwise restart it, and look at the node agent's log",
        )


class PodIdentity:
    """One pod's claim; checked once for each version of its workload."""

    def __init__(self, view: MeshView, info: Add, netns: Netns) -> None:
        self._view = view
        self._info = info
        self._netns = netns
        self._proven: Workload | None = None
        self._proven_at = -1

    async def workload(self) -> Workload:
        """The pod as the control plane knows it; waits for it for ``WORKLOAD_WAIT_S``.

        Raises UnknownWorkloadError, ForeignNamespaceError.
        """
        if self._proven is not None and self._proven_at == self._view.version:
            return self._proven
        with trio.move_on_after(WORKLOAD_WAIT_S):
            while True:
                found = self._view.find(self._info)
                if found is not None and self._is_ours(found):
                    return found
                with trio.move_on_after(_LOOK_S):
                    await self._view.changed()
        if found is not None:
            raise ForeignNamespaceError(self._info, found, self._netns)
        raise UnknownWorkloadError(self._info)

    def _is_ours(self, workload: Workload) -> bool:
        version = self._view.version
        if self._proven is workload:
            self._proven_at = version
            return True
        # Without addresses there is nothing to compare; a file may leave them out.
        ours = not workload.addresses or any(map(self._has, workload.addresses))
        if ours:
            self._proven, self._proven_at = workload, version
        return ours

    def _has(self, ip: IPAddress) -> bool:
        try:
            return self._netns.run(_can_bind, ip)
        except OSError:
            return False  # the namespace cannot be entered; nobody can prove anything


def _can_bind(ip: IPAddress) -> bool:
    """Only an address of the namespace can be bound (unless its sysctl allows any)."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
        return False
    return True
