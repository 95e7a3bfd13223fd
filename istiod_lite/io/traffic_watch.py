"""Looks at tunnels and waypoints for as long as somebody looks at the web page.

Nothing is asked while nobody watches, so a cluster without viewers pays nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import httpx
import trio

from ambient.api.ports import STATS_PORT
from ambient.kube.core import objects
from ambient.telemetry.core import traffic
from ambient.telemetry.core.traffic import Decisions, Seen, Totals
from ambient.telemetry.io.http_client import transport
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.index import Index
from istiod_lite.core.mesh_page import Measured
from istiod_lite.core.waypoints import MANAGED_BY_US

LOOK_S: Final = 5.0
"""Between two looks."""
WATCHED_S: Final = 30.0
"""How long after the last question somebody counts as watching."""
ANSWER_S: Final = 4.0
AT_ONCE: Final = 16
MAX_BYTES: Final = 32 << 20
"""Of one exposition; a tunnel with thousands of pairs has a few."""


class Look(NamedTuple):
    """What all programs had counted at one moment (trio's clock)."""

    at_s: float
    pairs: Mapping[ObjectKey, Mapping[Seen, Totals]]


class TrafficWatch:
    """``measured`` is the newest; ``look`` says that somebody wants it."""

    def __init__(self, index: Index, system_namespace: str, port: int = STATS_PORT) -> None:
        self._index = index
        self._system = system_namespace
        self._port = port
        self._asked = trio.Event()
        self._until_s = 0.0
        self.measured = Measured()

    def look(self) -> Measured:
        """The newest measurement; more follow while this is called."""
        self._until_s = trio.current_time() + WATCHED_S
        self._asked.set()
        return self.measured

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._asked.wait()
            # Metrics are plain HTTP, so no certificates are read.
            async with httpx.AsyncClient(transport=transport(False), timeout=ANSWER_S) as http:
                newest = await self._measure(http, None)
                while trio.current_time() < self._until_s:
                    await trio.sleep(LOOK_S)
                    newest = await self._measure(http, newest)
            self._asked = trio.Event()
            self.measured = Measured()

    async def _measure(self, http: httpx.AsyncClient, before: Look | None) -> Look:
        texts, unreachable = await self._scrape(http)
        now_s = trio.current_time()
        pairs, decisions = await trio.to_thread.run_sync(_read, texts)
        after = Look(now_s, pairs)
        seconds = None if before is None else after.at_s - before.at_s
        rates = {} if before is None or not seconds else _rates(before, after)
        self.measured = Measured(rates, decisions, seconds, tuple(sorted(unreachable)))
        return after

    async def _scrape(self, http: httpx.AsyncClient) -> tuple[dict[ObjectKey, str], list[str]]:
        """What each program exposes, and the pods that did not answer."""
        texts: dict[ObjectKey, str] = {}
        unreachable: list[str] = []
        limit = trio.CapacityLimiter(AT_ONCE)

        async def one(key: ObjectKey, ip: str) -> None:
            host = f"[{ip}]" if ":" in ip else ip
            async with limit:
                try:
                    texts[key] = await _get(http, f"http://{host}:{self._port}/metrics")
                except (httpx.HTTPError, ValueError, trio.TooSlowError):
                    unreachable.append(str(key))

        async with trio.open_nursery() as nursery:
            for key, ip in self._targets():
                nursery.start_soon(one, key, ip)
        return texts, unreachable

    def _targets(self) -> list[tuple[ObjectKey, str]]:
        """Pods of tunnels and waypoints that have an address."""
        pods = self._index.inputs.pods
        found = ((key, pods.get(key)) for key in pods)
        return [
            (key, pod.status.pod_ip)
            for key, pod in found
            if pod is not None and pod.status.pod_ip and self._counts(pod)
        ]

    def _counts(self, pod: objects.Pod) -> bool:
        labels = pod.metadata.labels or {}
        tunnel = pod.metadata.namespace == self._system and labels.get("app") == "ztunnel"
        return tunnel or labels.get(objects.MANAGED_LABEL) == MANAGED_BY_US


async def _get(http: httpx.AsyncClient, url: str) -> str:
    """Raises httpx.HTTPError, trio.TooSlowError, and ValueError for what is too long."""
    body = bytearray()
    length = 0
    with trio.fail_after(ANSWER_S):
        async with http.stream("GET", url, headers={"accept": "text/plain"}) as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():  # to its end: httpx leaves a task otherwise
                length += len(piece)
                if length <= MAX_BYTES:
                    body += piece
    if length > MAX_BYTES:
        raise ValueError("the exposition is too long")
    return body.decode(errors="replace")


def _read(
    texts: Mapping[ObjectKey, str],
) -> tuple[dict[ObjectKey, dict[Seen, Totals]], dict[str, Decisions]]:
    pairs: dict[ObjectKey, dict[Seen, Totals]] = {}
    decisions: dict[str, Decisions] = {}
    for key, text in texts.items():
        try:
            pairs[key] = traffic.read(text)
            counted = traffic.decisions(text)
        except ValueError:
            continue  # another program on that port
        for policy, one in counted.items():
            decisions.setdefault(policy, Decisions()).add(one)
    return pairs, decisions


def _rates(before: Look, after: Look) -> Mapping[traffic.Pair, traffic.Rates]:
    """Of the programs that answered both times; the others have no rate yet."""
    counted = [
        traffic.since(before.pairs[key], after.pairs[key])
        for key in after.pairs.keys() & before.pairs.keys()
    ]
    return traffic.rates(counted, after.at_s - before.at_s)
