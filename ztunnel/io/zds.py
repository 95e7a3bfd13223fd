"""The conversation with the node agent: hello, snapshot, live changes; for ever again."""

from __future__ import annotations

import os
from typing import Final, Protocol, assert_never

import trio

from ambient.api.errors import UnavailableError
from ambient.net.core.wire import (
    Ack,
    Add,
    Del,
    Hello,
    Keep,
    Request,
    SnapshotSent,
    WireError,
    decode_request,
    encode,
)
from ambient.net.io.agent_socket import AgentSocket, PacketError
from ambient.net.io.netns import Netns
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ztunnel.io.pods import PodStartError, SnapshotError

FIRST_DELAY_S: Final = 0.02  # ztunnel: doubles from 10 ms, so it first sleeps 20 ms
LONGEST_DELAY_S: Final = 15.0

FAILURE: Final = "failure to start proxy: "
"""How the refusal of a pod begins, as upstream's does."""

log = get_logger("zds")


class PodBook(Protocol):
    """Who does what the agent says: this process's ``Pods``, or a supervisor's ``Shares``."""

    def begin_session(self) -> None:
        """The agent will name every pod again."""

    async def add(self, info: Add, netns: Netns) -> None:
        """Serve a pod. Takes over ``netns``. Raises PodStartError."""

    def keep(self, uid: str) -> None:
        """Leave a pod as it is. Raises SnapshotError."""

    def delete(self, uid: str) -> None:
        """The pod has left."""

    def snapshot_sent(self) -> None:
        """Pods that were not named have left. Raises SnapshotError."""


async def follow_agent(path: str, pods: PodBook) -> None:
    """Do what the agent at ``path`` asks for; reconnect with back-off and leave live pods alone."""
    delay_s = FIRST_DELAY_S
    told = ""
    while True:
        session = _Session(path, pods)
        try:
            await session.run(await AgentSocket.connect(path))
            reason, hint = "the agent closed the connection", ""
        except UnavailableError as error:
            reason, hint = str(error), error.hint
        except (OSError, WireError, PacketError, SnapshotError) as error:
            reason, hint = str(error), "do agent and tunnel speak the same version of ZDS?"
        pods.begin_session()
        if session.answered or reason != told:
            log.warning(Event.ZDS_DISCONNECTED, socket=path, error=reason, hint=hint)
            told = reason
        delay_s = FIRST_DELAY_S if session.answered else min(2 * delay_s, LONGEST_DELAY_S)
        await trio.sleep(delay_s)


async def follow_supervisor(fd: int, pods: PodBook) -> None:
    """As ``follow_agent`` on a connection that we were started with; returns when it ends.

    Raises what breaks the protocol: both ends are one program.
    """
    await _Session("the supervisor", pods).run(AgentSocket.from_fd(fd))


class _Session:
    """One connection to the agent."""

    def __init__(self, path: str, pods: PodBook) -> None:
        self._path = path
        self._pods = pods
        self.answered = False
        """The agent has sent a request, so it is a working one."""

    async def run(self, connected: AgentSocket) -> None:
        """Returns when the agent has closed; takes over the socket.

        A request that breaks the protocol is answered with its error, then raised.
        """
        with connected as agent:
            self._pods.begin_session()
            await agent.send(encode(Hello()))
            while True:
                data, fd = await agent.recv()
                if not data:
                    _close(fd)
                    return
                if not self.answered:
                    self.answered = True
                    log.info(Event.ZDS_CONNECTED, socket=self._path)
                try:
                    error = await self._handle(data, fd)
                except (OSError, WireError, SnapshotError) as problem:
                    await agent.send(encode(Ack(str(problem))))
                    raise
                await agent.send(encode(Ack(error)))

    async def _handle(self, data: bytes, fd: int | None) -> str:
        """Do one request; the answer is empty or says why its pod could not be started."""
        try:
            request = decode_request(data)
            if isinstance(request, Add) and fd is None:
                raise WireError("add without a network namespace")
            if not isinstance(request, Add) and fd is not None:
                raise WireError(f"{type(request).__name__.lower()} with a descriptor")
        except WireError:
            _close(fd)
            raise
        return await self._perform(request, fd)

    async def _perform(self, request: Request, fd: int | None) -> str:
        match request:
            case Add():
                assert fd is not None
                try:
                    await self._pods.add(request, Netns.from_fd(fd))
                except PodStartError as error:
                    return f"{FAILURE}{error}"
            case Keep(uid):
                self._pods.keep(uid)
            case Del(uid):
                self._pods.delete(uid)
            case SnapshotSent():
                self._pods.snapshot_sent()
            case never:
                assert_never(never)
        return ""


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
