"""One worker of a node's tunnel: its process, and the pods of its share."""

from __future__ import annotations

from math import inf
from typing import ClassVar, Final

import trio

from ambient.cli import worker
from ambient.net.io.agent_socket import AgentSocket
from ambient.net.io.zds_link import ConnectionLostError, Workload, ZdsLink
from ambient.telemetry.core.event_names import Event
from ztunnel.io.pods import PodStartError

PATIENCE_S: Final = 2.0
"""How long after a worker's end its pods wait for the next one; the node agent gives up at 5 s."""


class Worker(worker.Worker):
    """``books`` are the pods of its share."""

    CHANNELS: ClassVar = 2

    def __init__(self, number: int) -> None:
        super().__init__("ztunnel", number)
        self.books: Final[dict[str, Workload]] = {}
        self._link: ZdsLink | None = None
        self._joined = trio.Event()
        self._patient_until = inf

    @property
    def serving(self) -> bool:
        """It has its state from the control plane and takes pods."""
        return self._link is not None

    async def until_serving(self) -> None:
        """Wait for the first time that it takes pods."""
        while self._link is None:
            await self._joined.wait()

    async def sync(self, uid: str, *, again: bool = False) -> str:
        """Tell it what is true now about a pod; its refusal, or empty. ``again``: even if it knows.

        Raises PodStartError where there is no worker now; the next one is told everything.
        """
        with trio.move_on_at(self._patient_until):
            await self.until_serving()
        if self._link is None:
            raise PodStartError(f"worker {self.number} is being started again")
        try:
            link = self._link
            return await (link.repeat(uid) if again else link.sync(uid))
        except ConnectionLostError as lost:
            raise PodStartError(f"worker {self.number} has ended: {lost}") from None

    async def _attend(self, process: trio.Process, *channels: AgentSocket) -> int:
        (zds,) = channels
        link = ZdsLink(zds, self.books)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.read)
                nursery.start_soon(self._hand_over, link)
                code = await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._link = None
            self._joined = trio.Event()
            self._patient_until = trio.current_time() + PATIENCE_S
            link.end("the worker has ended")
        return code

    async def _hand_over(self, link: ZdsLink) -> None:
        """Give it its pods. It says hello when it knows the mesh, however long that takes."""
        try:
            await link.hello(inf)
            self._link = link
            self._joined.set()
            await link.snapshot()
            await link.ended.wait()
            raise ConnectionLostError(link.why)
        except ConnectionLostError as lost:
            if not self._stopping.is_set():
                worker.log.warning(Event.ZDS_DISCONNECTED, worker=self.number, error=str(lost))
        self._link = None  # without its supervisor the worker drains and ends
