"""On-demand mode: the control plane tells only what is asked for, so a route asks first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from ambient.api.address import HostPort, NetworkAddress
from ambient.api.service import NamespacedHostname
from ambient.api.workload import Workload
from ambient.state.core.mesh import MeshState
from ztunnel.core.route import missing

Demand = Callable[[str], Awaitable[None]]
"""Have ``network/ip`` or ``namespace/hostname`` in the state, where the control plane knows it."""
_ROUNDS: Final = 3
"""The destination, then its waypoint or gateway, then the gateway of that one's network."""


async def prepare(demand: Demand, state: MeshState, client: Workload, original: HostPort) -> None:
    """Ask for everything that ``route`` would miss; what stays unknown is asked for once."""
    asked: set[NetworkAddress | NamespacedHostname] = set()
    for _ in range(_ROUNDS):
        wanted = [one for one in missing(state, client, original) if one not in asked]
        if not wanted:
            return
        asked.update(wanted)
        for one in wanted:
            await demand(f"{one[0]}/{one[1]}")
