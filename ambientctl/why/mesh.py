"""What ``why`` judges by: the mesh as the control plane would tell it to its proxies."""

from __future__ import annotations

from typing import NamedTuple

from ambient.api.config import ConfigObject
from ambient.api.workload import Workload
from ambient.state.core.mesh import MeshState
from ambientctl.why.surroundings import Surroundings
from waypoint.core.place import Place
from waypoint.core.program import Program


class Mesh(NamedTuple):
    """The state that node tunnels see, and the L7 objects that waypoints see."""

    state: MeshState
    configs: tuple[ConfigObject, ...]
    around: Surroundings = Surroundings()

    def program(self, place: Place) -> Program:
        """The L7 configuration of a waypoint, compiled as the waypoint compiles it."""
        return Program(place).changed(self.configs)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """Every workload, in a stable order."""
        return tuple(sorted(self.state.workloads, key=lambda workload: workload.uid))
