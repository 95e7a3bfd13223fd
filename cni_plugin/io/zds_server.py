"""The agent's side of ZDS: tells every connected ztunnel which pods are its own.

Several may be connected during an upgrade. New pods go to the newest one, departures to all; when
the newest goes away, the next one is told what it lacks. Each connection has one request under way
at a time and its own time-outs, so one that hangs or sends rubbish delays nobody else: it is
closed, and gets the whole picture again when it comes back.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import trio

from ambient.api.errors import MeshError
from ambient.net.core import wire
from ambient.net.io.agent_socket import AgentListener, AgentSocket, PacketError
from ambient.net.io.netns import Netns
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

HELLO_TIMEOUT_S: Final = 5.0  # Istio's, like the next
ACK_TIMEOUT_S: Final = 5.0
CONNECT_WAIT_S: Final = 3.0
"""How long an enrolment waits for a first ztunnel: both may have been started just now."""
MAX_CONNECTIONS: Final = 16

log = get_logger("zds")


class TunnelError(MeshError):
    """The pod could not be handed over; trying again may help."""


class NoTunnelError(TunnelError):
    """No ztunnel is connected."""


class Workload(NamedTuple):
    """A pod that belongs into the mesh."""

    uid: str
    name: str
    namespace: str
    service_account: str
    netns: Netns | None
    """None where it could not be found: a ztunnel that has the pod already keeps it."""

    @property
    def key(self) -> tuple[int, int] | None:
        """Which namespace it is."""
        return None if self.netns is None else self.netns.key


class ConnectionLostError(Exception):
    """This ztunnel is gone, or broke the protocol; the text says how."""


class ZdsServer:
    """Owns the listening socket and one task per connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._workloads: dict[str, Workload] = {}
        self._connections: list[_Connection] = []
        self._connected = trio.Event()

    @property
    def connected(self) -> int:
        """How many ztunnels are connected."""
        return len(self._connections)

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

    async def _newest(self) -> _Connection:
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
        connection = _Connection(sock, self._workloads)
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

    async def _forget(self, connection: _Connection) -> None:
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


class _Connection:
    """One ztunnel."""

    def __init__(self, sock: AgentSocket, workloads: dict[str, Workload]) -> None:
        self._socket = sock
        self._workloads = workloads
        self._told: dict[str, tuple[int, int] | None] = {}
        self._turn = trio.Lock()
        self._snapshot_sent = False
        self._send, self._answers = trio.open_memory_channel[bytes](1)
        self._awaiting = True  # the hello
        self.ended = trio.Event()
        self.why = ""

    def end(self, why: str) -> None:
        """Wake everybody who waits for this ztunnel; the first reason stays."""
        if not self.ended.is_set():
            self.why = why
            self.ended.set()
        self._send.close()
        self._socket.close()

    async def read(self) -> None:
        """Receive until the end; whatever was not asked for ends the connection."""
        try:
            while True:
                data, fd = await self._socket.recv()
                if fd is not None:
                    os.close(fd)
                    raise ConnectionLostError("it sent a descriptor")
                if not data:
                    raise ConnectionLostError("it closed the connection")
                if not self._awaiting:
                    raise ConnectionLostError("it spoke without being asked")
                self._awaiting = False
                self._send.send_nowait(data)
        except (OSError, PacketError, trio.ClosedResourceError) as error:
            self.end(str(error))
        except ConnectionLostError as lost:
            self.end(str(lost))

    async def hello(self) -> None:
        """Wait for its first message. Raises ConnectionLostError."""
        try:
            version = wire.decode_hello(await self._answer(HELLO_TIMEOUT_S, "hello")).version
        except wire.WireError as error:
            raise ConnectionLostError(f"its hello is none: {error}") from None
        if version != wire.VERSION_1:
            raise ConnectionLostError(f"it speaks version {version}, not {wire.VERSION_1}")

    async def snapshot(self) -> None:
        """Name every pod, then say so. Raises ConnectionLostError."""
        for uid in list(self._workloads):
            error = await self.sync(uid)
            if error:
                log.warning(Event.ZDS_POD_REFUSED, uid=uid, error=error)
        async with self._turn:
            await self._request(wire.SnapshotSent())
            self._snapshot_sent = True

    async def sync(self, uid: str) -> str:
        """Tell what is true now about one pod, unless it was told already.

        Returns ztunnel's refusal, empty when all is well. Raises ConnectionLostError.
        """
        async with self._turn:
            workload = self._workloads.get(uid)
            if workload is None:
                known = self._told.pop(uid, ()) != ()
                return await self._request(wire.Del(uid)) if known else ""
            if uid in self._told and self._told[uid] == workload.key:
                return ""
            if workload.netns is None:
                if self._snapshot_sent:
                    return "its network namespace is not known"
                error = await self._request(wire.Keep(uid))
            else:
                add = wire.Add(uid, workload.name, workload.namespace, workload.service_account)
                error = await self._request(add, workload.netns.fd)
            # A refused pod counts as told: ztunnel keeps trying it, and must hear of its departure.
            self._told[uid] = None if error else workload.key
            return error

    async def _request(self, message: wire.Request, fd: int | None = None) -> str:
        """Send one message and wait for its answer; the lock is held."""
        if self.ended.is_set():
            raise ConnectionLostError(self.why)
        copy = None if fd is None else os.dup(fd)  # the pod may be released meanwhile
        try:
            self._awaiting = True
            with trio.fail_after(ACK_TIMEOUT_S):
                await self._socket.send(wire.encode(message), copy)
            return wire.decode_ack(await self._answer(ACK_TIMEOUT_S, "answer")).error
        except trio.TooSlowError:
            self.end("it does not read")
        except (OSError, trio.ClosedResourceError, wire.WireError) as error:
            self.end(str(error))
        except trio.Cancelled:
            # Its answer would be taken for that of the next request.
            self.end("a request was abandoned")
            raise
        finally:
            if copy is not None:
                os.close(copy)
        raise ConnectionLostError(self.why)

    async def _answer(self, timeout_s: float, what: str) -> bytes:
        with trio.move_on_after(timeout_s):
            try:
                return await self._answers.receive()
            except trio.EndOfChannel:
                raise ConnectionLostError(self.why) from None
        self.end(f"no {what} within {timeout_s:g} s")
        raise ConnectionLostError(self.why)
