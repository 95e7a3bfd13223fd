"""One worker as the supervisor sees it: its process, started as often as needed, and its pods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from math import inf
from typing import Final

import trio

from ambient.cli.worker_http import WorkerLostError, ask
from ambient.net.io.agent_socket import AgentSocket
from ambient.net.io.zds_link import ConnectionLostError, Workload, ZdsLink
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.http import Request, Response
from ambient.telemetry.io.logs import get_logger
from ztunnel.io.pods import PodStartError

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 15.0
CALM_S: Final = 60.0
"""A worker that ran this long is started again with the first delay."""
PATIENCE_S: Final = 2.0
"""How long after a worker's end its pods wait for the next one; the node agent gives up at 5 s."""
ANSWER_S: Final = 5.0

log = get_logger("supervisor")


class Worker:
    """Owns the process ``number``; ``books`` are the pods of its share."""

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.books: Final[dict[str, Workload]] = {}
        self.restarts = 0
        self._process: trio.Process | None = None
        self._link: ZdsLink | None = None
        self._http: AgentSocket | None = None
        self._joined = trio.Event()
        self._patient_until = inf
        self._stopping = trio.Event()

    @property
    def pid(self) -> int:
        """Its process; 0 while there is none."""
        return self._process.pid if self._process else 0

    @property
    def connected(self) -> bool:
        """It has its state from the control plane and takes pods."""
        return self._link is not None

    async def until_connected(self) -> None:
        """Wait for the first time that it takes pods."""
        while self._link is None:
            await self._joined.wait()

    async def run(self) -> None:
        """Start it, and again with back-off whenever it ends; returns after ``stop``."""
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            began_s = trio.current_time()
            code = await self._run_once()
            if self._stopping.is_set():
                break
            lived_s = trio.current_time() - began_s
            delay_s = FIRST_DELAY_S if lived_s > CALM_S else delay_s
            log.error(Event.WORKER_ENDED, worker=self.number, code=code, again_in_s=delay_s)
            self.restarts += 1
            self._patient_until = trio.current_time() + PATIENCE_S
            with trio.move_on_after(delay_s):
                await self._stopping.wait()
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    def stop(self) -> None:
        """Have it drain and end, and start it no more."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._signal(signal.SIGKILL)

    async def sync(self, uid: str, *, again: bool = False) -> str:
        """Tell it what is true now about a pod; its refusal, or empty. ``again``: even if it knows.

        Raises PodStartError where there is no worker now; the next one is told everything.
        """
        with trio.move_on_at(self._patient_until):
            await self.until_connected()
        if self._link is None:
            raise PodStartError(f"worker {self.number} is being started again")
        try:
            link = self._link
            return await (link.repeat(uid) if again else link.sync(uid))
        except ConnectionLostError as lost:
            raise PodStartError(f"worker {self.number} has ended: {lost}") from None

    async def ask(self, request: Request) -> Response:
        """An answer of its admin, metrics or readiness endpoint. Raises WorkerLostError."""
        if self._http is None:
            raise WorkerLostError("it is being started")
        return await ask(self._http, request, ANSWER_S)

    async def _run_once(self) -> int:
        """One process from start to end; its exit code."""
        zds, zds_fd = AgentSocket.pair()
        http, http_fd = AgentSocket.pair()
        with zds, http:
            try:
                process = self._process = await self._start(zds_fd, http_fd)
            finally:
                os.close(zds_fd)
                os.close(http_fd)
            self._http = http
            if self._stopping.is_set():
                process.terminate()
            log.info(Event.WORKER_STARTED, worker=self.number, pid=process.pid)
            link = ZdsLink(zds, self.books)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(link.read)
                    nursery.start_soon(self._hand_over, link)
                    code = await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                self._link = self._http = self._process = None
                self._joined = trio.Event()
                link.end("the worker has ended")
                if process.returncode is None:
                    process.kill()
        return code

    async def _start(self, *fds: int) -> trio.Process:
        command = [sys.executable, "-m", "ztunnel", "worker", str(self.number), *map(str, fds)]
        # A group of its own: Ctrl-C is for the supervisor, which tells the workers itself.
        process = await trio.lowlevel.open_process(
            command, pass_fds=fds, stdin=subprocess.DEVNULL, process_group=0
        )
        return process

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
                log.warning(Event.ZDS_DISCONNECTED, worker=self.number, error=str(lost))
        self._link = None  # without its supervisor the worker drains and ends

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
