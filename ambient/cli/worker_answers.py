"""What several workers answer, made one answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ambient.cli.worker import ANSWER_S, Worker
from ambient.cli.worker_http import WorkerLostError
from ambient.telemetry.core.metric_sums import add_up
from ambient.telemetry.io.http import Request, Response

LONGEST_S: Final = 310.0
"""For what concerns one worker: a profile may take 300 s. One that ends is noticed at once."""


async def ask_all(
    workers: Sequence[Worker], request: Request, patience_s: float = ANSWER_S
) -> dict[int, Response | None]:
    """The answers by worker; None of those that are not there."""
    answers: dict[int, Response | None] = {worker.number: None for worker in workers}

    async def one(worker: Worker) -> None:
        with suppress(WorkerLostError):
            answers[worker.number] = await worker.ask(request, patience_s)

    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(one, worker)
    return answers


async def ask_one(workers: Sequence[Worker], request: Request) -> Response:
    """The answer of the worker that ``?worker=`` names, else of the first one."""
    query = dict(request.query)
    wanted = query.pop("worker", "0")
    found = [worker for worker in workers if str(worker.number) == wanted]
    if not found:
        return Response(404, f"there is no worker {wanted}, only 0 to {len(workers) - 1}\n")
    try:
        return await found[0].ask(request._replace(query=query), LONGEST_S)
    except WorkerLostError as error:
        return Response(503, f"worker {wanted}: {error}\n")


async def ask_each(workers: Sequence[Worker], request: Request) -> Response:
    """Tell every worker; the answer of one stands for all."""
    answers = await ask_all(workers, request)
    found = [answer for answer in answers.values() if answer is not None]
    return found[0] if found else Response(503, "no worker\n")


def text(answer: Response) -> str:
    """The body of an answer."""
    return answer.body.decode() if isinstance(answer.body, bytes) else answer.body


class WorkerMetrics:
    """The sum of all workers' metrics and of the supervisor's own.

    Those are of its process, and, named ``serving`` and ``restarts``, how many workers serve and
    how often one had to be started again.
    """

    def __init__(self, workers: Sequence[Worker], serving: str, restarts: str) -> None:
        self._workers = workers
        self._registry = CollectorRegistry()
        self._registry.register(_Counts(workers, serving, restarts))
        ProcessCollector(registry=self._registry)

    async def answer(self, request: Request) -> Response:
        """The page, in the format that the request's ``accept`` asks for."""
        answers = await ask_all(self._workers, Request("GET", "/metrics", {}, {}))
        texts = [text(answer) for answer in answers.values() if answer is not None]
        registry = CollectorRegistry()
        registry.register(_Families(add_up([generate_latest(self._registry).decode(), *texts])))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(200, encode(registry), content_type)


class _Families(Collector):
    """Metrics that are there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


class _Counts(Collector):
    def __init__(self, workers: Sequence[Worker], serving: str, restarts: str) -> None:
        self._workers = workers
        self._serving = serving
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        serving = sum(worker.serving for worker in self._workers)
        restarts = sum(worker.restarts for worker in self._workers)
        yield GaugeMetricFamily(self._serving, "Workers that serve.", serving)
        yield CounterMetricFamily(self._restarts, "Workers that had to be started again.", restarts)
