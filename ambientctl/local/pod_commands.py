"""``kubectl exec``: commands that the API server starts in the containers of the local mesh."""

from __future__ import annotations

from collections.abc import Sequence

from ambientctl.local.apiserver.core.pod_streams import PodCommand
from ambientctl.local.control import Control
from ambientctl.local.runtime import Process, Runtime


class Launched:
    """A started command, as the API server sees it."""

    def __init__(self, runtime: Runtime, process: Process) -> None:
        self._runtime = runtime
        self._process = process

    async def wait(self) -> int:
        """Its exit status; negative is the signal that ended it."""
        return await self._process.wait()

    async def kill(self) -> None:
        """End it and its children now."""
        await self._runtime.kill(self._process)


async def launch(
    runtime: Runtime, control: Control, wish: PodCommand, fds: Sequence[int]
) -> Launched:
    """Start it on three descriptors. Raises MeshError where container or program is missing."""
    spec = control.command(wish.namespace, wish.pod, wish.container, wish.command)
    return Launched(runtime, await runtime.start(spec, *fds))
