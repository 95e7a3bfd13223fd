"""The pod's HTTP endpoints where several workers serve it: their answers made one."""

from __future__ import annotations

from collections.abc import Sequence

from ambient.cli.worker import Worker
from ambient.cli.worker_answers import WorkerMetrics, ask_all, ask_each, ask_one
from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io.http import Request, Response


class WorkerAdmin:
    """Asks every worker, or the one that ``?worker=`` names, and answers."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self.draining = False
        self._all_were = False
        self._metrics = WorkerMetrics(
            workers, names.WAYPOINT_WORKERS, names.WAYPOINT_WORKER_RESTARTS
        )

    async def ready(self, request: Request) -> Response:
        """Ready as long as one worker is, once all were: the others' share goes to it."""
        answers = await ask_all(self._workers, request)
        pending = [f"worker {n}" for n, a in answers.items() if a is None or a.status != 200]
        some = len(pending) < len(self._workers)
        if self.draining:
            pending.append("draining")
        self._all_were = self._all_were or not pending
        if self._all_were and some and not self.draining:
            pending.clear()
        return Response(*Readiness(pending).answer())

    async def metrics(self, request: Request) -> Response:
        """The sum of all workers' metrics and of our own."""
        return await self._metrics.answer(request)

    async def admin(self, request: Request) -> Response:
        """The admin port. What changes something is for every worker."""
        if request.method == "POST" and not request.query.get("worker"):
            return await ask_each(self._workers, request)
        return await ask_one(self._workers, request)
