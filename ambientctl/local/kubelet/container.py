"""One container: start it, probe it, start it again, end it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.net.io.netns import Netns
from ambientctl.local.kubelet.environment import Lookup, build_environment, command_line
from ambientctl.local.kubelet.probes import Prober
from ambientctl.local.kubelet.status import ContainerFacts, Run, timestamp
from ambientctl.local.log_files import LogFile, log_path, pump
from ambientctl.local.runtime import Mount, Process, ProcessSpec, Runtime

FIRST_BACK_OFF_S: Final = 1.0
MAX_BACK_OFF_S: Final = 30.0
"""A cluster waits 10 s to 5 min; a mesh on one machine is there to try things."""
CALM_S: Final = 60.0
"""A container that ran this long starts with the first back-off again."""

RecordEvent = Callable[[str, str, str], Awaitable[None]]
"""Type (Normal or Warning), reason, message."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What all containers of a pod share."""

    pod: dict[str, Any]
    runtime: Runtime
    join: Sequence[str]
    """Namespaces of the pod."""
    address: str
    node: Netns
    """The node's network namespace, from which pods are probed."""
    system_mounts: Sequence[Mount]
    """A private /run, resolv.conf and hosts."""
    volume_mounts: Callable[[Mapping[str, Any]], list[Mount]]
    status: Mapping[str, Any]
    find: Lookup
    log_folder: Path
    changed: Callable[[], None]
    """To be called when facts have changed."""
    record: RecordEvent


class Container:
    """Runs one container of a pod, by its restart policy."""

    def __init__(
        self, spec: Mapping[str, Any], facts: ContainerFacts, around: Surroundings
    ) -> None:
        self.spec = spec
        self.facts = facts
        self._around = around
        self._process: Process | None = None
        self._environment: dict[str, str] = {}
        self._stopping = False

    @property
    def process(self) -> Process | None:
        """The running process."""
        return self._process

    async def run(self, policy: str) -> int:
        """Run, and run again as ``policy`` (Always, OnFailure, Never) wants; the final status."""
        back_off_s = FIRST_BACK_OFF_S
        while True:
            began = time.monotonic()
            code = await self._run_once()
            if self._stopping or policy == "Never" or (policy == "OnFailure" and code == 0):
                return code
            if time.monotonic() - began > CALM_S:
                back_off_s = FIRST_BACK_OFF_S
            await self._back_off(back_off_s)
            back_off_s = min(back_off_s * 2, MAX_BACK_OFF_S)

    async def _back_off(self, wait_s: float) -> None:
        facts = self.facts
        if facts.run is Run.TERMINATED:
            facts.last = facts.state()
            facts.reason = "CrashLoopBackOff" if facts.exit_code else "Completed"
            facts.message = f"back-off {wait_s:g}s restarting failed container"
        facts.run = Run.WAITING
        self._around.changed()
        await self._around.record(
            "Warning", "BackOff", f"Back-off restarting container {facts.name}: {facts.message}"
        )
        await trio.sleep(wait_s)
        facts.restarts += 1

    async def _run_once(self) -> int:
        facts = self.facts
        facts.ready = facts.started = False
        async with trio.open_nursery() as nursery:
            try:
                process = await self._start(nursery)
            except (MeshError, OSError) as error:
                facts.run, facts.reason, facts.message = (
                    Run.WAITING,
                    "RunContainerError",
                    str(error),
                )
                facts.pid = 0
                self._around.changed()
                await self._around.record("Warning", "Failed", f"Error: {error}")
                return 128  # what containerd reports for a container that never ran
            facts.run, facts.started_at, facts.pid = Run.RUNNING, timestamp(), process.pid
            facts.message = ""
            self._around.changed()
            async with trio.open_nursery() as probing:
                probing.start_soon(self._probe)
                code = await process.wait()
                probing.cancel_scope.cancel()
            await self._around.runtime.kill(process)  # children that it left in its group
            self._process = None
            facts.run, facts.finished_at, facts.ready = Run.TERMINATED, timestamp(), False
            facts.exit_code = code if code >= 0 else 128 - code
            facts.reason = "Completed" if facts.exit_code == 0 else "Error"
            self._around.changed()
        return facts.exit_code

    async def _start(self, nursery: trio.Nursery) -> Process:
        around = self._around
        self._environment = build_environment(around.pod, self.spec, around.status, around.find)
        spec = ProcessSpec(
            argv=command_line(self.spec, self._environment),
            env=self._environment,
            cwd=self.spec.get("workingDir") or "/",
            join=around.join,
            unshare=["mnt"],
            mounts=[*around.system_mounts, *around.volume_mounts(self.spec)],
        )
        metadata = around.pod["metadata"]
        log = LogFile(
            log_path(around.log_folder, metadata["namespace"], metadata["name"], self.facts.name)
        )
        out_r, out_w = os.pipe2(os.O_CLOEXEC)
        err_r, err_w = os.pipe2(os.O_CLOEXEC)
        try:
            process = await around.runtime.start(spec, -1, out_w, err_w)
        except BaseException as error:
            os.close(out_r)
            os.close(err_r)
            log.write("stderr", [(f"cannot start: {error}".encode(), True)])
            log.close()
            raise
        finally:
            os.close(out_w)
            os.close(err_w)
        self._process = process
        nursery.start_soon(self._log, out_r, err_r, log, process)
        return process

    async def _log(self, out: int, err: int, log: LogFile, process: Process) -> None:
        """Copy both streams; give up soon after the end, a stray child may keep them open."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, out, "stdout", log)
                nursery.start_soon(pump, err, "stderr", log)
                await process.wait()
                nursery.cancel_scope.deadline = trio.current_time() + 1
        finally:
            log.close()

    async def _probe(self) -> None:
        around, facts = self._around, self.facts
        prober = Prober(around.node, around.address, self.spec, self._execute)
        startup = self.spec.get("startupProbe")
        if startup:
            limit_s = float(startup.get("initialDelaySeconds") or 0) + float(
                startup.get("periodSeconds") or 10
            ) * int(startup.get("failureThreshold") or 3)
            with trio.move_on_after(limit_s) as scope:
                await prober.until_success(startup)
            if scope.cancelled_caught:
                await self._unhealthy("Startup", f"no success within {limit_s:g} s")
                return
        facts.started = True
        async with trio.open_nursery() as nursery:
            if self.spec.get("livenessProbe"):
                nursery.start_soon(self._live, prober, self.spec["livenessProbe"])
            await self._readiness(prober, self.spec.get("readinessProbe"))

    async def _live(self, prober: Prober, probe: Mapping[str, Any]) -> None:
        await trio.sleep(float(probe.get("initialDelaySeconds") or 0))
        await self._unhealthy("Liveness", await prober.until_turn(probe, from_ok=True))

    async def _readiness(self, prober: Prober, probe: Mapping[str, Any] | None) -> None:
        if probe:
            await prober.until_success(probe)
        self._set_ready(True)
        if not probe:
            return
        while True:
            reason = await prober.until_turn(probe, from_ok=self.facts.ready)
            if self.facts.ready:
                await self._around.record(
                    "Warning", "Unhealthy", f"Readiness probe failed: {reason}"
                )
            self._set_ready(not self.facts.ready)

    def _set_ready(self, ready: bool) -> None:
        self.facts.ready = ready
        self._around.changed()

    async def _unhealthy(self, probe: str, reason: str) -> None:
        await self._around.record("Warning", "Unhealthy", f"{probe} probe failed: {reason}")
        if self._process is not None:
            await self._around.runtime.signal(self._process, signal.SIGTERM)
            grace_s = self._around.pod["spec"].get("terminationGracePeriodSeconds", 30)
            with trio.move_on_after(grace_s):
                await self._process.wait()
            await self._around.runtime.signal(self._process, signal.SIGKILL)

    async def stop(self, grace_s: float) -> None:
        """End it: SIGTERM, and SIGKILL after the grace period."""
        self._stopping = True
        process = self._process
        if process is None or process.code is not None:
            return
        await self._around.runtime.signal(process, signal.SIGTERM)
        with trio.move_on_after(grace_s):
            await process.wait()
        await self._around.runtime.kill(process)

    def execution(self, argv: Sequence[str]) -> ProcessSpec:
        """A further command in the running container. Raises MeshError where it does not run."""
        process = self._process
        if process is None or process.code is not None:
            raise MeshError(f"container {self.facts.name} is not running")
        return ProcessSpec(
            argv=list(argv),
            env=self._environment,
            cwd=self.spec.get("workingDir") or "/",
            join=[*self._around.join, process.namespace("mnt")],
        )

    async def _execute(self, argv: list[str]) -> tuple[int, str]:
        done = await self._around.runtime.run(self.execution(argv))
        return done.code, (done.out + done.err).decode(errors="replace")
