"""The pod's HTTP endpoints where several workers serve it: their answers made one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ambient.cli.worker_http import WorkerLostError
from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.metric_sums import add_up
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io.http import Request, Response
from waypoint.io.worker import Worker


class WorkerAdmin:
    """Asks every worker, or the one that ``?worker=`` names, and answers."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self.draining = False
        self._all_were = False
        self._registry = CollectorRegistry()
        self._registry.register(_WorkerCounts(workers))
        ProcessCollector(registry=self._registry)

    async def ready(self, request: Request) -> Response:
        """Ready as long as one worker is, once all were: the others' share goes to it."""
        answers = await self._ask_all(request)
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
        answers = await self._ask_all(Request("GET", "/metrics", {}, {}))
        texts = [_text(answer) for answer in answers.values() if answer is not None]
        registry = CollectorRegistry()
        registry.register(_Families(add_up([generate_latest(self._registry).decode(), *texts])))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(200, encode(registry), content_type)

    async def admin(self, request: Request) -> Response:
        """The admin port. What changes something is for every worker."""
        query = dict(request.query)
        wanted = query.pop("worker", "")
        request = request._replace(query=query)
        if request.method == "POST" and not wanted:
            answers = await self._ask_all(request)
            found = [answer for answer in answers.values() if answer is not None]
            return found[0] if found else Response(503, "no worker\n")
        named = [w for w in self._workers if str(w.number) == (wanted or "0")]
        if not named:
            last = len(self._workers) - 1
            return Response(404, f"there is no worker {wanted}, only 0 to {last}\n")
        try:
            return await named[0].ask(request)
        except WorkerLostError as error:
            return Response(503, f"worker {named[0].number}: {error}\n")

    async def _ask_all(self, request: Request) -> dict[int, Response | None]:
        """The answers by worker; None of those that are not there."""
        answers: dict[int, Response | None] = {worker.number: None for worker in self._workers}

        async def one(worker: Worker) -> None:
            with suppress(WorkerLostError):
                answers[worker.number] = await worker.ask(request)

        async with trio.open_nursery() as nursery:
            for worker in self._workers:
                nursery.start_soon(one, worker)
        return answers


class _Families(Collector):
    """Metrics that are there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


class _WorkerCounts(Collector):
    """The supervisor's own."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        running = sum(worker.running for worker in self._workers)
        restarts = sum(worker.restarts for worker in self._workers)
        yield GaugeMetricFamily(names.WAYPOINT_WORKERS, "Workers that run.", running)
        yield CounterMetricFamily(
            names.WAYPOINT_WORKER_RESTARTS, "Workers that had to be started again.", restarts
        )


def _text(answer: Response) -> str:
    return answer.body.decode() if isinstance(answer.body, bytes) else answer.body
