"""How long pods wait for the mesh: enrolment, CNI ADD, and what redirection costs a connection.

    python perf/enroll.py [--quick] [--json FILE] [--only WORDS] [--pods N] [--backend NAME]

One node in namespaces of its own (tests/sandbox): real kernel, Debian's ptp plugin, our plugin
executed as a runtime executes it, and the node agent as a process. A stand-in for ztunnel relays
plaintext, so that the numbers are those of enrolment and redirection; perf/hbone.py has the
tunnel's. Needs wrk and nginx.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import trio  # noqa: E402

from ambient.net.io import socket_map  # noqa: E402
from cni_plugin.core.backend import BACKEND_ANNOTATION  # noqa: E402
from cni_plugin.core.socket_map_wish import SOCKET_MAP_ANNOTATION  # noqa: E402
from perf import report  # noqa: E402
from perf.report import Row  # noqa: E402
from tests.bpf import mount_bpf_fs, unavailable  # noqa: E402
from tests.fakes.kube_api import FakeKubeApi  # noqa: E402
from tests.fakes.tunnel import FakeTunnel  # noqa: E402
from tests.netns.cni_world import PODS, Pod, World, ptp_chain, until  # noqa: E402
from tests.netns.test_nothing_drops import Talk, agent_process, redirected_by  # noqa: E402

PORT = 8080
WITHOUT = "without the mesh"
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen {port}; location / {{ return 200 "hello\\n"; }} }}
}}
"""


class Rig(NamedTuple):
    """The node while it is measured."""

    world: TimedWorld
    tunnel: FakeTunnel
    nursery: trio.Nursery
    folder: Path
    pods: int
    rounds: int
    seconds: float


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# Label to first tunnelled byte.


async def tell_the_way(pod: Pod, nursery: trio.Nursery) -> None:
    """The application: one byte, ``t`` to the tunnel (which dials from the pod), else ``d``."""
    sock = pod.netns.run(socket.create_server, ("", PORT), backlog=512)
    sock.setblocking(False)
    listener = trio.socket.from_stdlib_socket(sock)

    async def serve() -> None:
        with listener:
            while True:
                client, address = await listener.accept()
                with client:
                    await client.send(b"t" if address[0] == pod.ip else b"d")

    nursery.start_soon(serve)


async def until_tunnelled(peer: Pod, pod: Pod, begin: float, every_s: float) -> float:
    """Seconds from ``begin`` until a new connection's first byte came through the tunnel."""
    while True:
        sock = peer.netns.run(socket.socket)
        sock.setblocking(False)
        with trio.socket.from_stdlib_socket(sock) as client:
            await client.connect((pod.ip, PORT))
            if await client.recv(1) == b"t":
                return trio.current_time() - begin
        await trio.sleep(every_s)


async def label(rig: Rig, count: int, rounds: int) -> list[float]:
    """Seconds of every pod of every round."""
    world, namespace = rig.world, f"label{count}"
    world.namespace(namespace)
    pods = [await world.start(f"p{count}-{number}", namespace) for number in range(count)]
    found: list[float] = []
    async with trio.open_nursery() as nursery:
        for pod in pods:
            await tell_the_way(pod, nursery)
        for _ in range(rounds):
            begin = trio.current_time()
            world.namespace(namespace, "ambient")
            async with trio.open_nursery() as asking:

                async def ask(pod: Pod, begin: float = begin) -> None:
                    # The asking must not take the machine from what is measured.
                    every_s = 0.003 * len(pods)
                    found.append(await until_tunnelled(world.pods[0], pod, begin, every_s))

                for pod in pods:
                    asking.start_soon(ask, pod)
            world.namespace(namespace)
            await until(lambda: all(pod.untouched() for pod in pods[:3]))
        nursery.cancel_scope.cancel()
    for pod in pods:
        await world.stop(pod)
    return found


async def label_one(rig: Rig) -> list[Row]:
    return rows_of("label to first tunnelled byte, 1 pod", await label(rig, 1, 5 * rig.rounds))


async def label_many(rig: Rig) -> list[Row]:
    found = await label(rig, rig.pods, 1)
    return rows_of(f"label to first tunnelled byte, {rig.pods} pods at once", found)


def rows_of(work: str, seconds: list[float]) -> list[Row]:
    return [
        Row(f"{work}, p50", "ms", percentile(seconds, 0.5) * 1e3),
        Row(f"{work}, p99", "ms", percentile(seconds, 0.99) * 1e3),
    ]


# CNI ADD.


class Tunnel(FakeTunnel):
    """wrk ends by resetting its connections."""

    async def _relay(self, *arguments: Any) -> None:
        try:
            await super()._relay(*arguments)
        except* OSError:
            pass


class TimedWorld(World):
    """Remembers how long each plugin took for the pods of each namespace."""

    def __init__(self, folder: Path, api: FakeKubeApi) -> None:
        super().__init__(folder, api, ptp_chain(folder))
        self.took: dict[tuple[str, str], list[float]] = {}

    def execute(self, kind: str, command: str, pod: Pod, conf: dict[str, Any]) -> dict[str, Any]:
        begin = time.perf_counter()
        try:
            return super().execute(kind, command, pod, conf)
        finally:
            if command == "ADD":
                took = self.took.setdefault((kind, pod.namespace), [])
                took.append((time.perf_counter() - begin) * 1e3)


async def cni_add(rig: Rig) -> list[Row]:
    """Our plugin, which comes after ptp, against ptp."""
    world = rig.world
    world.namespace("mesh", "ambient")
    world.namespace("plain")
    world.took.clear()
    works = {
        "kube-system": "CNI ADD, excluded namespace (without: ptp alone)",
        "plain": "CNI ADD, pod outside the mesh (without: ptp alone)",
        "mesh": "CNI ADD, pod of the mesh (without: ptp alone)",
    }
    for number in range(5 * rig.rounds):
        for namespace in works:
            await world.stop(await world.start(f"add{number}", namespace))
    theirs = [took for (kind, _), found in world.took.items() if kind == "ptp" for took in found]
    start = [starts(world) for _ in range(10 * rig.rounds)]
    rows = [Row("CNI plugin, start to end of VERSION", "ms", statistics.median(start))]
    for namespace, work in works.items():
        took = statistics.median(world.took["ambient-cni", namespace])
        rows.append(Row(work, "ms", took, WITHOUT, statistics.median(theirs)))
    return rows


def starts(world: TimedWorld) -> float:
    """Milliseconds of the plugin's process where it has nothing to do."""
    begin = time.perf_counter()
    subprocess.run(
        [world.bin_dir / "ambient-cni"],
        env={"PATH": os.environ["PATH"], "CNI_COMMAND": "VERSION"},
        input=b'{"cniVersion":"1.0.0"}',
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return (time.perf_counter() - begin) * 1e3


# What redirection costs.


def wrk(source: Pod, target: Pod, seconds: float) -> float:
    """Requests per second on 16 kept connections."""
    command = ["wrk", "-t1", "-c16", f"-d{seconds:g}s", f"http://{target.ip}:{PORT}/"]
    command = ["nsenter", f"--net={source.path}", *command]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert found, text
    return float(found[1])


def set_up(source: Pod, target: Pod, seconds: float) -> float:
    """Milliseconds from connect to the first byte of an answer, one after the other; median."""
    found = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        with source.netns.run(socket.socket) as sock:
            sock.settimeout(10)  # as non-blocking as what a socket map may join
            sock.connect((target.ip, PORT))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            sock.recv(1)
        found.append(time.perf_counter() - begin)
    return statistics.median(found) * 1e3


async def redirection(rig: Rig) -> list[Row]:
    """Into the pod and out of it, with each backend that this machine has, and without the mesh;
    then again with the socket map.

    The stand-in dials from the pod's own address, and both ends of what it relays are on this
    machine; it is the same with every backend.
    """
    world = rig.world
    world.namespace("load")
    app, peer = await world.start("app", "load"), await world.start("peer", "kube-system")
    ways = {"inbound": (peer, app), "outbound": (app, peer)}
    backends = ["nftables"] if unavailable() else ["nftables", "ebpf"]
    carried = ["off"] if unavailable() else ["off", "both"]
    await until(lambda: len(carried) == 1 or members() is not None)  # before there are listeners
    with ExitStack() as closing:
        for pod in (app, peer):
            closing.callback(serve_hello(pod, rig.folder))
            await until(lambda pod=pod: listens(pod))
        plain = {way: await both(*ends, rig) for way, ends in ways.items()}
        world.namespace("load", "ambient")
        rows = []
        for backend, carries in itertools.product(backends, carried):
            annotate(world, app, backend, carries)
            await until(lambda backend=backend: redirected_by(app) == backend)
            await until(lambda carries=carries: bool(members()) is (carries != "off"))
            suffix = backend if carries == "off" else f"{backend}, socket map"
            for way, ends in ways.items():
                for kind, one, without in zip(
                    KINDS, await both(*ends, rig), plain[way], strict=True
                ):
                    work, unit = kind
                    rows.append(Row(f"{work}, {way}, {suffix}", unit, one, WITHOUT, without))
        return rows


KINDS = (("connection to first byte", "ms"), ("requests, 16 connections", "1/s"))


async def both(source: Pod, target: Pod, rig: Rig) -> tuple[float, float]:
    """One value for each of ``KINDS``."""
    return await measured(set_up, source, target, rig), await measured(wrk, source, target, rig)


def members() -> int | None:
    """How many pods the socket map joins; None where there is no map."""
    if not any(Path(socket_map.FOLDER).glob("*/link")):
        return None
    with socket_map.open_socket_map("/proc") as found:
        return len(found.members())


def annotate(world: World, pod: Pod, backend: str, carries: str) -> None:
    present = world.api.get(PODS, pod.namespace, pod.name)
    assert present is not None
    before = present["metadata"].get("annotations") or {}
    wishes = {BACKEND_ANNOTATION: backend, SOCKET_MAP_ANNOTATION: carries}
    metadata = {**present["metadata"], "annotations": {**before, **wishes}}
    world.api.put(PODS, {**present, "metadata": metadata})


def serve_hello(pod: Pod, folder: Path) -> Callable[[], None]:
    """nginx in the pod; what ends it."""
    own = folder / f"nginx-{pod.name}"
    own.mkdir()
    config = own / "nginx.conf"
    config.write_text(NGINX.format(folder=own, port=PORT))
    command = ["nsenter", f"--net={pod.path}", "nginx", "-c", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def end() -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    return end


def listens(pod: Pod) -> bool:
    with pod.netns.run(socket.socket) as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


async def measured(
    how: Callable[[Pod, Pod, float], float], source: Pod, target: Pod, rig: Rig
) -> float:
    """The median of the rounds."""
    found = [
        await trio.to_thread.run_sync(how, source, target, rig.seconds) for _ in range(rig.rounds)
    ]
    return statistics.median(found)


# What open connections notice.


async def stall(rig: Rig) -> list[Row]:
    """The longest wait of 100 echoing connections while their pod joins and leaves, again."""
    world = rig.world
    world.namespace("stall")
    web = await world.start("echo", "stall")
    listener = trio.socket.from_stdlib_socket(
        web.netns.run(socket.create_server, ("", PORT), backlog=512)
    )
    with ExitStack() as closing:
        async with trio.open_nursery() as nursery:

            async def answer(client: trio.socket.SocketType) -> None:
                with client:
                    while data := await client.recv(1024):
                        await client.send(data)

            async def serve() -> None:
                with listener:
                    while True:
                        client, _ = await listener.accept()
                        nursery.start_soon(answer, client)

            nursery.start_soon(serve)
            talks = []
            for _ in range(100):
                sock = world.pods[0].netns.run(socket.socket)
                closing.callback(sock.close)
                sock.setblocking(False)
                client = trio.socket.from_stdlib_socket(sock)
                closing.callback(client.close)
                await client.connect((web.ip, PORT))
                talks.append(Talk(trio.SocketStream(client), idle=False))
                nursery.start_soon(talks[-1].run)
            for _ in range(2 * rig.rounds):
                world.namespace("stall", "ambient")
                await until(lambda: web.annotation == "enabled")
                await trio.sleep(1)
                world.namespace("stall")
                await until(lambda: web.annotation is None)
                await trio.sleep(1)
            nursery.cancel_scope.cancel()
    longest = max(talk.longest_s for talk in talks)
    return [Row("longest wait of 100 open connections, in and out", "ms", longest * 1e3)]


WORKS: dict[str, Callable[[Rig], Awaitable[list[Row]]]] = {
    "label to first tunnelled byte, one": label_one,
    "label to first tunnelled byte, many": label_many,
    "CNI ADD": cni_add,
    "redirection": redirection,
    "longest wait": stall,
}


async def run(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    rows: list[Row] = []
    print(f"{'work':56} {'unit':>5} {'mesh':>10} {'without':>10}")
    async with FakeKubeApi().serving() as api, trio.open_nursery() as nursery:
        world = TimedWorld(folder, api)
        world.namespace("kube-system")
        tunnel = Tunnel(world.zds)
        nursery.start_soon(tunnel.run)
        async with agent_process(
            world, LOG_LEVEL="warn", SOCKET_MAP="off" if unavailable() else "both"
        ):
            await until(lambda: bool(tunnel.sessions) and "ambient-cni" in world.conflist_text())
            await world.start("client", "kube-system")
            rounds = 1 if arguments.quick else 4
            seconds = 2.0 if arguments.quick else 4.0
            rig = Rig(world, tunnel, nursery, folder, arguments.pods, rounds, seconds)
            for name, work in WORKS.items():
                if arguments.only not in name:
                    continue
                for row in await work(rig):
                    rows.append(row)
                    theirs = "" if row.theirs is None else f"{row.theirs:.1f}"
                    print(f"{row.work:56} {row.unit:>5} {row.ours:10.1f} {theirs:>10}", flush=True)
        world.close()
        nursery.cancel_scope.cancel()
    return rows


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--pods", type=int, default=100, help="pods enrolled at once (100)")
    parser.add_argument("--backend", default="nftables", help="of pods without annotation: or ebpf")
    arguments = parser.parse_args()
    report.need({"wrk": "wrk", "nginx": "nginx"})
    report.enter_sandbox()
    before = report.machine()
    if unavailable():
        print(f"without eBPF: {unavailable()}")
    else:
        mount_bpf_fs()
    with tempfile.TemporaryDirectory() as folder:
        report.write(arguments.json, before, trio.run(run, arguments, Path(folder)))


if __name__ == "__main__":
    main()
