"""A tunnel of several processes: each worker is a whole ztunnel for its share of the node's pods.

The supervisor owns what a node has once (the conversation with the node agent, the ports for
readiness, metrics and admin) and carries no traffic. Workers share nothing, so one that dies takes
only the connections of its own pods with it; it is started again and gets those pods back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import trio

from ambient.api.errors import SettingsError
from ambient.cli.worker_count import workers_here
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io.http import Routes
from ambient.telemetry.io.logs import get_logger
from ztunnel import app
from ztunnel.io.endpoints import Endpoint
from ztunnel.io.process import check_privileges, raise_descriptor_limit
from ztunnel.io.shares import Shares
from ztunnel.io.worker import Worker
from ztunnel.io.worker_admin import WorkerAdmin
from ztunnel.io.zds import follow_agent
from ztunnel.settings import Settings

_OVERTIME_S: Final = 5.0
"""A worker that has not ended so long after its own deadline is killed."""

log = get_logger("supervisor")


async def run(settings: Settings, stopping: trio.Event) -> None:
    """Serve this node's pods, in this process or in several. Raises MeshError."""
    try:
        count = workers_here(settings.worker_threads)
    except ValueError as error:
        raise SettingsError(
            f"ZTUNNEL_WORKER_THREADS: {error}", hint="set it, or --workers, to 1, 4, 0, 50% or auto"
        ) from None
    if count == 1 or settings.dedicated:
        await app.run(settings, stopping)
        return
    raise_descriptor_limit()
    check_privileges(settings.mark)
    await _supervise(settings, stopping, [Worker(number) for number in range(count)])


async def _supervise(settings: Settings, stopping: trio.Event, workers: Sequence[Worker]) -> None:
    readiness = Readiness([app.PROXY])
    endpoints = list(_endpoints(settings, WorkerAdmin(workers, readiness, stopping)))
    async with trio.open_nursery() as nursery:
        shares = Shares(workers, readiness, nursery)
        for endpoint in endpoints:
            await nursery.start(endpoint.run, settings.inpod_port_reuse)
        async with trio.open_nursery() as running:
            for worker in workers:
                running.start_soon(worker.run)
            await _follow(settings, stopping, workers, shares, readiness)
            log.info(Event.DRAIN_STARTED, workers=len(workers), deadline_s=settings.drain_s)
            readiness.wait_for(app.PROXY)
            for endpoint in endpoints:
                endpoint.give_way()
            for worker in workers:
                worker.stop()
            nursery.start_soon(_kill_late, workers, settings.drain_s + _OVERTIME_S)
        nursery.cancel_scope.cancel()
    shares.close()


async def _follow(
    settings: Settings,
    stopping: trio.Event,
    workers: Sequence[Worker],
    shares: Shares,
    readiness: Readiness,
) -> None:
    """Do what the agent says until ``stopping``; it is asked when every worker knows the mesh."""
    async with trio.open_nursery() as talking:

        async def talk() -> None:
            for worker in workers:
                await worker.until_serving()
            readiness.done(app.PROXY)
            await follow_agent(settings.inpod_uds, shares)

        talking.start_soon(talk)
        await stopping.wait()
        talking.cancel_scope.cancel()


async def _kill_late(workers: Sequence[Worker], after_s: float) -> None:
    await trio.sleep(after_s)
    for worker in workers:
        worker.kill()


def _endpoints(settings: Settings, admin: WorkerAdmin) -> Iterator[Endpoint]:
    ready = Routes()
    ready.add("/healthz/ready", admin.ready, methods=("GET",))
    yield Endpoint("", settings.readiness_port, ready)
    stats = Routes()
    for path in ("/metrics", "/stats/prometheus"):
        stats.add(path, admin.metrics, methods=())
    yield Endpoint("", settings.stats_port, stats)
    yield Endpoint("localhost", settings.admin_port, admin.admin)
