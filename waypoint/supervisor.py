"""A waypoint of several processes: each worker is a whole waypoint with its own listening socket.

The kernel spreads connections over the workers (SO_REUSEPORT). The supervisor owns the ports for
readiness, metrics and admin, carries no traffic, and starts a worker that has ended again.
Workers share only the token buckets of local rate limits, and what they count of clusters, so one
that dies takes only its own connections with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import trio

from ambient.api.errors import SettingsError
from ambient.cli.worker import Worker
from ambient.cli.worker_count import workers_here
from ambient.net.io.agent_socket import AgentSocket
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.http import Routes
from ambient.telemetry.io.logs import get_logger
from waypoint import app
from waypoint.io import shared_clusters, shared_slots
from waypoint.io.worker_admin import WorkerAdmin
from waypoint.settings import Settings

OVERTIME_S: Final = 5.0
"""A worker that has not ended so long after its own deadline is killed."""

log = get_logger("supervisor")


class CountingWorker(Worker):
    """What it had under way ends with its process."""

    async def _attend(self, process: trio.Process, *channels: AgentSocket) -> int:
        try:
            return await super()._attend(process, *channels)
        finally:
            shared_clusters.forget(self._shared[-1], self.number)


async def run(settings: Settings, stopping: trio.Event) -> None:
    """Serve in this process or in several. Raises MeshError."""
    try:
        count = workers_here(settings.workers)
    except ValueError as error:
        raise SettingsError(
            f"WAYPOINT_WORKERS: {error}", hint="set it, or --workers, to 1, 4, 0, 50% or auto"
        ) from None
    if count == 1:
        await app.run(settings, stopping)
        return
    app.check(settings)
    shared = shared_slots.create(), shared_clusters.create(count)
    try:
        workers = [CountingWorker("waypoint", number, shared) for number in range(count)]
        await _supervise(settings, stopping, workers)
    finally:
        for fd in shared:
            os.close(fd)


async def _supervise(settings: Settings, stopping: trio.Event, workers: Sequence[Worker]) -> None:
    admin = WorkerAdmin(workers)
    async with trio.open_nursery() as nursery:
        ready, stats = Routes(), Routes()
        ready.add("/healthz/ready", admin.ready)
        for path in ("/metrics", "/stats/prometheus"):
            stats.add(path, admin.metrics)
        await app.serve_port(nursery, "", settings.readiness_port, ready)
        await app.serve_port(nursery, "", settings.stats_port, stats)
        await app.serve_port(nursery, "localhost", settings.admin_port, admin.admin)
        async with trio.open_nursery() as running:
            for worker in workers:
                running.start_soon(worker.run)
            await stopping.wait()
            log.info(Event.DRAIN_STARTED, workers=len(workers), deadline_s=settings.drain_s)
            admin.draining = True
            for worker in workers:
                worker.stop()
            nursery.start_soon(_kill_late, workers, settings.drain_s + OVERTIME_S)
        nursery.cancel_scope.cancel()


async def _kill_late(workers: Sequence[Worker], after_s: float) -> None:
    await trio.sleep(after_s)
    for worker in workers:
        worker.kill()
