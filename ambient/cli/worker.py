"""One worker as its supervisor sees it: a process, started as often as needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import ClassVar, Final

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
    """Owns the process ``python -m PROGRAM worker NUMBER FD...``.

    The last descriptor is for HTTP (``worker_http``); a program that talks to its workers in more
    ways has more ``CHANNELS`` and attends to them itself.
    """

    CHANNELS: ClassVar = 1

    def __init__(self, program: str, number: int, shared: tuple[int, ...] = ()) -> None:
        """``shared`` descriptors are given to each process, in front of its own."""
        self.number: Final = number
        self._shared = shared
        self.restarts = 0
        self.code = 0
        """The exit code of its last process."""
        self._program = program
        self._process: trio.Process | None = None
        self._http: AgentSocket | None = None
        self._stopping = trio.Event()

    @property
    def pid(self) -> int:
        """Its process; 0 while there is none."""
        return self._process.pid if self._process else 0

    @property
    def serving(self) -> bool:
        """Does it do its work, as far as we know?"""
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

    async def ask(self, request: Request, patience_s: float = ANSWER_S) -> Response:
        """An answer of its admin, metrics or readiness endpoint. Raises WorkerLostError."""
        if self._http is None:
            raise WorkerLostError("it is being started")
        return await ask(self._http, request, patience_s)

    async def _run_once(self) -> int:
        """One process from start to end; its exit code."""
        with ExitStack() as stack:
            pairs = [AgentSocket.pair() for _ in range(self.CHANNELS)]
            *channels, http = [stack.enter_context(ours) for ours, _ in pairs]
            try:
                process = self._process = await self._start([fd for _, fd in pairs])
            finally:
                for _, fd in pairs:
                    os.close(fd)
            self._http = http
            if self._stopping.is_set():
                process.terminate()
            log.info(Event.WORKER_STARTED, worker=self.number, pid=process.pid)
            try:
                return await self._attend(process, *channels)
            finally:
                self._http = self._process = None
                if process.returncode is None:
                    process.kill()

    async def _attend(self, process: trio.Process, *channels: AgentSocket) -> int:
        """Until the process has ended; its exit code."""
        return await process.wait()

    async def _start(self, own_fds: list[int]) -> trio.Process:
        fds = [*self._shared, *own_fds]
        command = [sys.executable, "-m", self._program, "worker", str(self.number), *map(str, fds)]
        # A group of its own: Ctrl-C is for the supervisor, which tells the workers itself.
        process = await trio.lowlevel.open_process(
            command, pass_fds=fds, stdin=subprocess.DEVNULL, process_group=0
        )
        return process

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
