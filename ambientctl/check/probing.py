"""Real connections to port 15008, made by tunnels from inside their pods (pains 3 and 39).

What a NetworkPolicy says can be read; what a network does with it, and what firewalls, clocks and
certificates do, shows in a connection only. One pod of every workload is reached for, and one on
every node, from another pod: at first from one of its own namespace on another node, since that
is what most policies let through. Only where several pods of the mesh get no connection is the
target's port taken for closed: who may call whom is a policy's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import trio

from ambient.api.errors import MeshError
from ambient.api.ports import ADMIN_PORT
from ambient.kube.io.client import KubeClient
from ambientctl.reach import PodPort, ask_json
from ambientctl.ztunnel_config.dump import Dump

MAX_TARGETS: Final = 200
"""Of one check; a mesh with more workloads is reached for in part, and the line says so."""
ANSWER_S: Final = 15.0
"""For one request; a tunnel itself gives up after 4 s."""
BATCH: Final = 50
"""Addresses in one request; tunnels take 64."""
ROUNDS: Final = 3
"""Pods from which a target is reached for before it counts as closed."""
CONNECT, HANDSHAKE, DONE = "connect", "handshake", "done"
"""How far a tunnel's probe came (ztunnel/io/probe.py)."""


class Source(NamedTuple):
    """A pod that a tunnel serves."""

    tunnel: str
    uid: str
    namespace: str
    name: str
    node: str


class Target(NamedTuple):
    """A pod whose tunnel is to answer."""

    namespace: str
    name: str
    node: str
    ip: str


class Reached(NamedTuple):
    """One probe."""

    source: Source
    target: Target
    stage: str
    error: str = ""
    hint: str = ""


class Probing(NamedTuple):
    """All probes, in order; ``unable`` says of tunnels that could not be asked why."""

    reached: tuple[Reached, ...] = ()
    unable: tuple[str, ...] = ()
    left_out: int = 0
    """Targets beyond the limit."""


def sources_of(dumps: Mapping[str, Dump], nodes_of: Mapping[str, str]) -> list[Source]:
    """Every served pod."""
    found = []
    for tunnel, dump in sorted(dumps.items()):
        states = dump.raw.get("workloadState")
        for uid, state in sorted(states.items()) if isinstance(states, dict) else ():
            info = state.get("info") or {}
            where, name = str(info.get("namespace", "")), str(info.get("name", ""))
            found.append(Source(tunnel, uid, where, name, nodes_of.get(tunnel, "")))
    return found


def targets_of(dumps: Mapping[str, Dump]) -> list[Target]:
    """One pod of each workload in the mesh, and at least one on each node."""
    first = next(iter(dumps.values()), None)
    taken: set[tuple[str, str]] = set()
    nodes: set[str] = set()
    found = []
    every = first.workloads if first is not None else []
    for one in sorted(every, key=lambda w: (str(w.get("namespace")), str(w.get("name")))):
        ips = [str(ip) for ip in one.get("workloadIps") or ()]
        if one.get("protocol") != "HBONE" or not ips or "/Pod/" not in str(one.get("uid")):
            continue
        if str(one.get("status", "Healthy")) != "Healthy" or one.get("networkGateway"):
            continue
        where, node = str(one.get("namespace", "")), str(one.get("node", ""))
        key = (where, str(one.get("workloadName") or one.get("name")))
        if key in taken and node in nodes:
            continue
        taken.add(key)
        nodes.add(node)
        found.append(Target(where, str(one.get("name", "")), node, ips[0]))
    return found


def best_source(
    target: Target, sources: Iterable[Source], tried: Iterable[Source] = ()
) -> Source | None:
    """Of the same namespace, then on another node; None where nobody is left."""
    before = set(tried)
    here = (target.namespace, target.name)
    left = [one for one in sources if one not in before and (one.namespace, one.name) != here]
    return min(
        left,
        key=lambda one: (one.namespace != target.namespace, one.node == target.node, one),
        default=None,
    )


async def probe_all(
    kube: KubeClient, system: str, tunnels: Mapping[str, Dump | MeshError],
    nodes_of: Mapping[str, str],
) -> Probing:  # fmt: skip
    """Probe every target, from other pods again where that fails."""
    dumps = {name: dump for name, dump in tunnels.items() if isinstance(dump, Dump)}
    sources, every = sources_of(dumps, nodes_of), targets_of(dumps)
    targets = every[:MAX_TARGETS]
    reached: dict[Target, list[Reached]] = {one: [] for one in targets}
    unable: dict[str, str] = {}
    for _ in range(ROUNDS):
        wishes: dict[Source, list[Target]] = {}
        for target, probes in reached.items():
            if any(one.stage == DONE for one in probes):
                continue
            usable = [one for one in sources if one.tunnel not in unable]
            source = best_source(target, usable, [one.source for one in probes])
            if source is not None:
                wishes.setdefault(source, []).append(target)
        for one in await _ask(kube, system, wishes, unable):
            reached[one.target].append(one)
    flat = tuple(one for probes in reached.values() for one in probes)
    told = tuple(f"{name}: {why}" for name, why in sorted(unable.items()))
    return Probing(flat, told, len(every) - len(targets))


async def _ask(
    kube: KubeClient, system: str, wishes: Mapping[Source, Sequence[Target]],
    unable: dict[str, str],
) -> list[Reached]:  # fmt: skip
    found: list[Reached] = []

    async def ask(source: Source, batch: Sequence[Target]) -> None:
        query = urlencode({"pod": source.uid, "to": ",".join(one.ip for one in batch)})
        at = PodPort(system, source.tunnel, ADMIN_PORT)
        try:
            answers = await ask_json(kube, at, f"/probe?{query}", method="POST", limit_s=ANSWER_S)
        except MeshError as error:
            unable[source.tunnel] = str(error)
            return
        if not isinstance(answers, list) or len(answers) != len(batch):
            unable[source.tunnel] = "it does not answer as tunnels of this mesh do"
            return
        found.extend(map(_read, [source] * len(batch), batch, answers))

    async with trio.open_nursery() as nursery:
        for source, targets in wishes.items():
            for start in range(0, len(targets), BATCH):
                nursery.start_soon(ask, source, targets[start : start + BATCH])
    return found


def _read(source: Source, target: Target, answer: Mapping[str, Any]) -> Reached:
    stage = str(answer.get("stage", ""))
    return Reached(source, target, stage, str(answer.get("error", "")), str(answer.get("hint", "")))
