"""The agent's end of one ZDS connection: brings one ztunnel up to date, one request at a time.

The books of what it should serve belong to somebody else and may change at any time; ``sync`` tells
what is true when its turn comes, and nothing twice.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import trio

from ambient.net.core import wire
from ambient.net.io.agent_socket import AgentSocket, PacketError
from ambient.net.io.netns import Netns
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

HELLO_TIMEOUT_S: Final = 5.0  # Istio's, like the next
ACK_TIMEOUT_S: Final = 5.0

log = get_logger("zds")


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


class ZdsLink:
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

    @property
    def pid(self) -> int:
        """Of the ztunnel; 0 where it is not to be seen from here."""
        return self._socket.peer().pid

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

    async def hello(self, timeout_s: float = HELLO_TIMEOUT_S) -> None:
        """Wait for its first message. Raises ConnectionLostError."""
        try:
            version = wire.decode_hello(await self._answer(timeout_s, "hello")).version
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

    async def repeat(self, uid: str) -> str:
        """Name a pod once more; to a ztunnel that serves it already that changes nothing.

        Ours then tells the eBPF redirection where it listens. As ``sync`` otherwise.
        """
        if self._told.get(uid) is not None:
            del self._told[uid]
        return await self.sync(uid)

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
