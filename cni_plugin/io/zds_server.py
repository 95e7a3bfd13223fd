"""The agent's side of ZDS: tells every connected ztunnel which pods are its own.

Several may be connected during an upgrade. New pods go to the newest one, departures to all; when
the newest goes away, the next one is told what it lacks. Each connection has one request under way
at a time and its own time-outs, so one that hangs or sends rubbish delays nobody else: it is
closed, and gets the whole picture again when it comes back.
"""

from __future__ import annotations

from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.net.io.agent_socket import AgentListener, AgentSocket
from ambient.net.io.zds_link import ConnectionLostError, Workload, ZdsLink
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

CONNECT_WAIT_S: Final = 3.0
"""How long an enrolment waits for a first ztunnel: both may have been started just now."""
MAX_CONNECTIONS: Final = 16

log = get_logger("zds")


class TunnelError(MeshError):
    """The pod could not be handed over; trying again may help."""


class NoTunnelError(TunnelError):
    """No ztunnel is connected."""


class ZdsServer:
    """Owns the listening socket and one task per connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._workloads: dict[str, Workload] = {}
        self._connections: list[ZdsLink] = []
        self._connected = trio.Event()

    @property
    def connected(self) -> int:
        """How many ztunnels are connected."""
        return len(self._connections)

    def processes(self) -> list[int]:
        """The process ids of ztunnels, as this process sees them."""
        return [connection.pid for connection in self._connections]

    def holds(self, uid: str) -> bool:
        """Whether ztunnels are told to serve the pod."""
        return uid in self._workloads

    def adopt(self, workload: Workload) -> None:
        """Name a pod that is enrolled already in every snapshot from now on; tells nobody now."""
        self._workloads[workload.uid] = workload

    async def add(self, workload: Workload) -> None:
        """Hand a pod to the newest ztunnel; returns when it has acknowledged.

        Raises TunnelError; then the pod is not handed over.
        """
        before = self._workloads.get(workload.uid)
        self._workloads[workload.uid] = workload
        try:
            newest = await self._newest()
            error = await newest.sync(workload.uid)
        except ConnectionLostError as lost:
            error = f"the connection was lost: {lost}"
        except BaseException:
            await self._put_back(workload, before)
            raise
        if error:
            await self._put_back(workload, before)
            raise TunnelError(
                f"ztunnel did not take {workload.namespace}/{workload.name}: {error}",
                hint="ztunnel's log on this node says more",
            )

    async def repeat(self, uid: str) -> None:
        """Name a pod once more to every ztunnel; see ``ZdsLink.repeat``."""
        for connection in list(self._connections):
            try:
                await connection.repeat(uid)
            except ConnectionLostError:
                continue

    async def remove(self, uid: str) -> None:
        """Tell every ztunnel that the pod has left; one that is gone need not be told."""
        self._workloads.pop(uid, None)
        for connection in list(self._connections):
            try:
                await connection.sync(uid)
            except ConnectionLostError:
                continue

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Raises MeshError where the socket cannot be made."""
        await trio.Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        with AgentListener.bind(self._path) as listener:
            async with trio.open_nursery() as nursery:
                task_status.started()
                await listener.serve(self._connection, nursery)

    async def _newest(self) -> ZdsLink:
        with trio.move_on_after(CONNECT_WAIT_S):
            while not self._connections:
                await self._connected.wait()
        if not self._connections:
            raise NoTunnelError(
                "no ztunnel is connected on this node",
                hint=f"is the DaemonSet ztunnel running here, and does it see {self._path}?",
            )
        return self._connections[-1]

    async def _put_back(self, workload: Workload, before: Workload | None) -> None:
        if self._workloads.get(workload.uid) is not workload:
            return  # somebody else has decided meanwhile
        if before is not None:
            self._workloads[workload.uid] = before
            return
        with trio.CancelScope(shield=True):  # bounded by the time-outs of each connection
            await self.remove(workload.uid)

    async def _connection(self, sock: AgentSocket) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning(Event.ZDS_REFUSED, connections=len(self._connections))
            return
        connection = ZdsLink(sock, self._workloads)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.read)
                await connection.hello()
                self._connections.append(connection)
                self._connected.set()
                log.info(Event.ZDS_CONNECTED, pid=sock.peer().pid, connections=self.connected)
                await connection.snapshot()
                await connection.ended.wait()
                nursery.cancel_scope.cancel()
        except* ConnectionLostError as lost:
            connection.end(str(lost.exceptions[0]))
        finally:
            connection.end("the agent stops")
            if connection in self._connections:
                await self._forget(connection)

    async def _forget(self, connection: ZdsLink) -> None:
        was_newest = self._connections[-1] is connection
        self._connections.remove(connection)
        log.info(Event.ZDS_DISCONNECTED, reason=connection.why, connections=self.connected)
        if not self._connections:
            self._connected = trio.Event()
        elif was_newest:
            # It never heard of the pods that only the newest was given.
            successor = self._connections[-1]
            try:
                for uid in list(self._workloads):
                    await successor.sync(uid)
            except ConnectionLostError:
                return
