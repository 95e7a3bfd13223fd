"""The node's HTTP endpoints where several workers serve it: their answers made one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import trio

from ambient.cli.worker_answers import WorkerMetrics, ask_all, ask_each, ask_one, text
from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io.http import Request, Response
from ztunnel.core import merge
from ztunnel.io.admin import JSON
from ztunnel.io.worker import Worker

PATIENCE_S: Final = 15.0
"""For what a worker does for a pod; a call takes 12 s at most (ztunnel/io/call.py)."""
_NOT_READY = "not ready, pending: "


class WorkerAdmin:
    """Asks every worker, or the one that ``?worker=`` names, and answers."""

    def __init__(
        self, workers: Sequence[Worker], readiness: Readiness, stopping: trio.Event
    ) -> None:
        self._workers = workers
        self._readiness = readiness
        self._stopping = stopping
        self._metrics = WorkerMetrics(workers, names.WORKERS, names.WORKER_RESTARTS)

    async def ready(self, _: Request) -> Response:
        """Ready when every worker is, and has been given its pods."""
        pending = set(self._readiness.pending)
        answers = await ask_all(self._workers, Request("GET", "/healthz/ready", {}, {}))
        for number, answer in answers.items():
            if answer is None:
                pending.add(f"worker {number}")
            elif answer.status != 200:
                pending.update(text(answer).strip().removeprefix(_NOT_READY).split(", "))
        return Response(*Readiness(pending).answer())

    async def metrics(self, request: Request) -> Response:
        """The sum of all workers' metrics and of our own."""
        return await self._metrics.answer(request)

    async def admin(self, request: Request) -> Response:
        """The admin port."""
        match request.path:
            case "/quitquitquit" if request.method == "POST":
                self._stopping.set()
                return Response(200, "shutdown now\n")
            case "/config_dump" | "/connections" if "worker" not in request.query:
                return await self._merged(request)
            case "/logging":
                return await ask_each(self._workers, request)
            case "/probe" | "/call":
                return await self._answered(request)
            case _:  # what concerns one process: a profile, for example
                return await ask_one(self._workers, request)

    async def _answered(self, request: Request) -> Response:
        """By the worker that serves the pod; the others say 404."""
        answers = (await ask_all(self._workers, request, PATIENCE_S)).values()
        found = [answer for answer in answers if answer is not None]
        known = [answer for answer in found if answer.status != 404]
        return next(iter(known or found), Response(503, "no worker\n"))

    async def _merged(self, request: Request) -> Response:
        answers = await ask_all(self._workers, request)
        parts = {n: json.loads(text(one)) for n, one in answers.items() if one is not None}
        if request.path == "/config_dump":
            return _json(merge.config_dumps(list(parts.values())))
        return _json([{"worker": n, **one} for n, part in parts.items() for one in part])


def _json(body: object) -> Response:
    return Response(200, json.dumps(body, indent=2) + "\n", JSON)
