"""The node's HTTP endpoints where several workers serve it: their answers made one."""

from __future__ import annotations

import json
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
from ztunnel.core import merge
from ztunnel.io.admin import JSON
from ztunnel.io.worker import Worker

_NOT_READY = "not ready, pending: "


class WorkerAdmin:
    """Asks every worker, or the one that ``?worker=`` names, and answers."""

    def __init__(
        self, workers: Sequence[Worker], readiness: Readiness, stopping: trio.Event
    ) -> None:
        self._workers = workers
        self._readiness = readiness
        self._stopping = stopping
        self._registry = CollectorRegistry()
        self._registry.register(_WorkerCounts(workers))
        ProcessCollector(registry=self._registry)

    async def ready(self, _: Request) -> Response:
        """Ready when every worker is, and has been given its pods."""
        pending = set(self._readiness.pending)
        answers = await self._ask_all(Request("GET", "/healthz/ready", {}, {}))
        for worker in self._workers:
            answer = answers.get(worker.number)
            if answer is None:
                pending.add(f"worker {worker.number}")
            elif answer.status != 200:
                pending.update(_text(answer).strip().removeprefix(_NOT_READY).split(", "))
        return Response(*Readiness(pending).answer())

    async def metrics(self, request: Request) -> Response:
        """The sum of all workers' metrics and of our own."""
        answers = await self._ask_all(Request("GET", "/metrics", {}, {}))
        texts = [generate_latest(self._registry).decode(), *map(_text, answers.values())]
        registry = CollectorRegistry()
        registry.register(_Families(add_up(texts)))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(200, encode(registry), content_type)

    async def admin(self, request: Request) -> Response:
        """The admin port."""
        match request.path:
            case "/quitquitquit" if request.method == "POST":
                self._stopping.set()
                return Response(200, "shutdown now\n")
            case "/config_dump" | "/connections" if "worker" not in request.query:
                return await self._merged(request)
            case "/logging":
                answers = await self._ask_all(request)
                return next(iter(answers.values()), _nobody("no worker"))
            case _:
                return await self._forward(request)

    async def _merged(self, request: Request) -> Response:
        answers = await self._ask_all(request)
        parts = [json.loads(_text(answer)) for answer in answers.values()]
        if request.path == "/config_dump":
            return _json(merge.config_dumps(parts))
        return _json(
            [
                {"worker": number, **one}
                for number, part in zip(answers, parts, strict=True)
                for one in part
            ]
        )

    async def _forward(self, request: Request) -> Response:
        """What concerns one process: a profile, for example."""
        query = dict(request.query)
        wanted = query.pop("worker", "0")
        found = [worker for worker in self._workers if str(worker.number) == wanted]
        if not found:
            return Response(
                404, f"there is no worker {wanted}, only 0 to {len(self._workers) - 1}\n"
            )
        try:
            return await found[0].ask(request._replace(query=query))
        except WorkerLostError as error:
            return _nobody(f"worker {wanted}: {error}")

    async def _ask_all(self, request: Request) -> dict[int, Response]:
        """The answers of those that are there, by worker."""
        answers: dict[int, Response] = {}

        async def one(worker: Worker) -> None:
            with suppress(WorkerLostError):  # whoever needs to know sees that it is missing
                answers[worker.number] = await worker.ask(request)

        async with trio.open_nursery() as nursery:
            for worker in self._workers:
                nursery.start_soon(one, worker)
        return dict(sorted(answers.items()))


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
        connected = sum(worker.connected for worker in self._workers)
        restarts = sum(worker.restarts for worker in self._workers)
        yield GaugeMetricFamily(names.WORKERS, "Workers that serve pods.", connected)
        yield CounterMetricFamily(
            names.WORKER_RESTARTS, "Workers that had to be started again.", restarts
        )


def _json(body: object) -> Response:
    return Response(200, json.dumps(body, indent=2) + "\n", JSON)


def _nobody(why: str) -> Response:
    return Response(503, f"{why}\n")


def _text(answer: Response) -> str:
    return answer.body.decode() if isinstance(answer.body, bytes) else answer.body
