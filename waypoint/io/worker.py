"""One worker as the supervisor sees it: its process, started as often as needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Final

import trio

from ambient.cli.worker_http import WorkerLostError, ask
from ambient.net.io.agent_socket import AgentSocket
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.http import Request, Response
from ambient.telemetry.io.logs import get_logger

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 15.0
CALM_S: Final = 60.0
"""A worker that ran this long is started again with the first delay."""
ANSWER_S: Final = 5.0

log = get_logger("supervisor")


class Worker:
    """Owns the process ``number``."""

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.restarts = 0
        self.code = 0
        """The exit code of its last process."""
        self._process: trio.Process | None = None
        self._http: AgentSocket | None = None
        self._stopping = trio.Event()

    @property
    def running(self) -> bool:
        """Is there a process?"""
        return self._process is not None

    async def run(self) -> None:
        """Start it, and again with back-off whenever it ends; returns after ``stop``."""
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            began_s = trio.current_time()
            self.code = await self._run_once()
            if self._stopping.is_set():
                break
            lived_s = trio.current_time() - began_s
            delay_s = FIRST_DELAY_S if lived_s > CALM_S else delay_s
            log.error(Event.WORKER_ENDED, worker=self.number, code=self.code, again_in_s=delay_s)
            self.restarts += 1
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

    async def ask(self, request: Request) -> Response:
        """An answer of its admin, metrics or readiness endpoint. Raises WorkerLostError."""
        if self._http is None:
            raise WorkerLostError("it is being started")
        return await ask(self._http, request, ANSWER_S)

    async def _run_once(self) -> int:
        """One process from start to end; its exit code."""
        http, http_fd = AgentSocket.pair()
        with http:
            try:
                process = self._process = await self._start(http_fd)
            finally:
                os.close(http_fd)
            self._http = http
            if self._stopping.is_set():
                process.terminate()
            log.info(Event.WORKER_STARTED, worker=self.number, pid=process.pid)
            try:
                return await process.wait()
            finally:
                self._http = self._process = None
                if process.returncode is None:
                    process.kill()

    async def _start(self, http_fd: int) -> trio.Process:
        command = [sys.executable, "-m", "waypoint", "worker", str(self.number), str(http_fd)]
        # A group of its own: Ctrl-C is for the supervisor, which tells the workers itself.
        process = await trio.lowlevel.open_process(
            command, pass_fds=(http_fd,), stdin=subprocess.DEVNULL, process_group=0
        )
        return process

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
