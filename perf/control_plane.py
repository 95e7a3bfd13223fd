"""The control plane with a large cluster, against its budgets.

    python perf/control_plane.py [--quick] [--json FILE] [--only WORDS]

A synthetic cluster of 10,000 pods behind 1,000 services on 200 nodes. First the index alone: all
objects at once, then single changes at three sizes, whose cost must not grow with the cluster.
Then the whole program against an API server double, with 100 tunnels connected over gRPC.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import grpc  # noqa: E402
import trio  # noqa: E402
from envoy.service.discovery.v3 import ads_pb2_grpc  # noqa: E402
from envoy.service.discovery.v3 import discovery_pb2 as pb  # noqa: E402

from ambient.api.type_urls import ADDRESS_TYPE  # noqa: E402
from istiod_lite import app  # noqa: E402
from istiod_lite.core.index import Index  # noqa: E402
from istiod_lite.core.snapshot import AddressSource, Publisher  # noqa: E402
from istiod_lite.settings import Settings  # noqa: E402
from perf import report  # noqa: E402
from perf.report import Row  # noqa: E402
from tests.fakes.kube_api import FakeKubeApi  # noqa: E402
from tests.unit.istiod_lite import objects  # noqa: E402

Cluster = dict[str, list[dict[str, Any]]]
SIZES = (1_000, 3_000, 10_000)
BUDGET = "budget"
NODES, NAMESPACES, PODS_PER_SERVICE, TUNNELS = 200, 50, 10, 100
COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Service": "/api/v1/services",
    "Pod": "/api/v1/pods",
}


def cluster(pods: int) -> Cluster:
    """So many pods; services, namespaces and nodes in proportion."""
    homes = [f"ns{number}" for number in range(NAMESPACES)]
    found: Cluster = {
        "Namespace": [objects.namespace(name) for name in (*homes, "istio-system")],
        "Node": [objects.node(f"n{n}", zone=f"z{n % 3}") for n in range(NODES)],
        "Service": [],
        "Pod": [],
    }
    for number in range(pods // PODS_PER_SERVICE):
        home, app_label = homes[number % NAMESPACES], f"app{number}"
        ip = f"10.96.{number // 256}.{number % 256}"
        selector = {"app": app_label}
        found["Service"].append(objects.service(app_label, home, ip, selector=selector))
        for index in range(PODS_PER_SERVICE):
            found["Pod"].append(pod(number * PODS_PER_SERVICE + index, home, app_label))
    return found


def pod(number: int, home: str, app_label: str, *, enrolled: bool = False) -> dict[str, Any]:
    """One pod, as a Deployment makes it."""
    ip = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
    labels = {"app": app_label, "version": "v1", "pod-template-hash": f"h{app_label}"}
    made = objects.pod(f"{app_label}-{number}", home, ip, node=f"n{number % NODES}", labels=labels)
    if enrolled:
        made["metadata"]["annotations"] = {"ambient.istio.io/redirection": "enabled"}
    return made


def first_pods(many: int) -> Iterator[dict[str, Any]]:
    """Pods of the cluster, one of each of the first services, now in the mesh."""
    for number in range(many):
        home = f"ns{number % NAMESPACES}"
        yield pod(number * PODS_PER_SERVICE, home, f"app{number}", enrolled=True)


# The index alone


def full_index(rounds: int) -> list[Row]:
    found = cluster(SIZES[-1])
    seconds, encoded = [], []
    for _ in range(rounds):
        gc.collect()
        begun = time.perf_counter()
        index = Index()
        changes = index.load(found)
        seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        publisher = Publisher()
        publisher.advance(index, changes)
        source = AddressSource(publisher.snapshot, labels=False, node="")
        for name in source.names():
            source.get(name)
        encoded.append(time.perf_counter() - begun)
    return [
        Row("index 10k pods, 1k services", "s", statistics.median(seconds), BUDGET, 1.0),
        Row("encode them all once", "s", statistics.median(encoded), BUDGET, 4.0),
    ]


def single_changes(rounds: int) -> list[Row]:
    """The cost of one change; a budget in microseconds, the same for every size."""
    rows = []
    for size in SIZES:
        found = cluster(size)
        index = Index()
        index.load(found)
        for name, kind, budget_us, changes in _changes():
            times = []
            for _ in range(rounds):
                for obj in changes:
                    begun = time.perf_counter()
                    index.apply(kind, obj)
                    times.append((time.perf_counter() - begun) * 1e6)
            row = Row(
                f"{name}, {size // 1000}k pods", "us", statistics.median(times), BUDGET, budget_us
            )
            rows.append(row)
    return rows


def _changes() -> list[tuple[str, str, float, list[dict[str, Any]]]]:
    """Pairs of states of some objects, so that every application changes something."""
    labelled, plain = [], []
    for number in range(20):
        ip = f"10.96.{number // 256}.{number % 256}"
        selector = {"app": f"app{number}"}
        made = objects.service(f"app{number}", f"ns{number}", ip, selector=selector)
        plain.append(made)
        labels = {"istio.io/use-waypoint": "wp"}
        labelled.append({**made, "metadata": {**made["metadata"], "labels": labels}})
    pods = list(first_pods(50))
    outside = [pod(n * PODS_PER_SERVICE, f"ns{n % NAMESPACES}", f"app{n}") for n in range(50)]
    selecting = [
        objects.policy(
            "p",
            "ns0",
            {"selector": {"matchLabels": {"app": "app0"}}, "rules": rules},
        )
        for rules in ([{}], [{"to": [{"operation": {"ports": ["80"]}}]}])
    ]
    entries = [
        objects.service_entry("e", "ns0", "db.example.com", endpoints=[{"address": ip}])
        for ip in ("192.0.2.1", "192.0.2.2")
    ]
    return [
        ("one pod", "Pod", 1000.0, [*pods, *outside]),
        ("one service", "Service", 3000.0, [*labelled, *plain]),
        ("one policy", "AuthorizationPolicy", 3000.0, selecting),
        ("one ServiceEntry", "ServiceEntry", 1000.0, entries),
    ]


# The whole program


class Tunnels:
    """``TUNNELS`` xDS clients in a process of their own; they tell when they heard of what."""

    def __init__(self, port: int) -> None:
        arguments = [sys.executable, __file__, "--clients", str(port)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.heard: dict[str, list[float]] = {}
        self.synced = 0
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, at = line.strip().partition(" ")
            if not at:
                continue  # the child was killed while it wrote
            with self._news:
                if word == "synced":
                    self.synced += 1
                else:
                    self.heard.setdefault(word, []).append(float(at))
                self._news.notify_all()

    def wait(self, done: Callable[[], bool], timeout_s: float) -> None:
        with self._news:
            if not self._news.wait_for(done, timeout_s):
                raise SystemExit(f"error: the tunnels did not hear everything in {timeout_s:g} s")


def run_clients(port: int) -> None:
    """In the child: one thread a tunnel."""
    out = threading.Lock()

    def tell(word: str, at: float) -> None:
        with out:
            print(word, f"{at:.6f}", flush=True)

    def tunnel(number: int) -> None:
        node = {"id": f"ztunnel~10.1.0.{number}~zt-{number}.istio-system~istio-system.svc.x"}
        first = pb.DeltaDiscoveryRequest(
            node=node, type_url=ADDRESS_TYPE, resource_names_subscribe=["*"]
        )
        options = (
            ("grpc.max_receive_message_length", 256 << 20),
            ("grpc.use_local_subchannel_pool", 1),
        )
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
            requests: list[Any] = [first]
            wake = threading.Semaphore(1)

            def ask() -> Iterator[Any]:
                while True:
                    wake.acquire()
                    yield requests.pop(0)

            synced = False
            for answer in stub.DeltaAggregatedResources(ask()):
                now = time.monotonic()
                requests.append(
                    pb.DeltaDiscoveryRequest(type_url=ADDRESS_TYPE, response_nonce=answer.nonce)
                )
                wake.release()
                if synced:
                    for one in answer.resources:
                        tell(one.name, now)
                else:
                    synced = True
                    tell("synced", now)

    for number in range(TUNNELS):
        threading.Thread(target=tunnel, args=(number,), daemon=True).start()
    sys.stdin.read()
    threading.Event().wait()


async def whole_program(quick: bool) -> list[Row]:
    api = FakeKubeApi()
    for kind, found in cluster(SIZES[-1]).items():
        for obj in found:
            api.put(COLLECTIONS[kind], obj)
    api.history.clear()
    settings = Settings(
        bind_address="127.0.0.1",
        http_port=0,
        https_port=0,
        monitoring_port=0,
        xds_port=0,
        xds_plaintext_port=0,
        root_ca_dir="",
        max_streams_per_client=TUNNELS,
    )
    stopping = trio.Event()
    async with api.serving(), trio.open_nursery() as nursery:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["KUBECONFIG"] = api.kubeconfig(Path(folder))
            begun = time.monotonic()
            plane = await nursery.start(app.run, settings, stopping)
            started = time.monotonic() - begun
            tunnels = Tunnels(plane.ports["xds_plaintext_port"])
            try:
                begun = time.monotonic()
                await trio.to_thread.run_sync(
                    tunnels.wait, lambda: tunnels.synced == TUNNELS, 300.0
                )
                synced = time.monotonic() - begun
                rows = [
                    Row("from start to serving, 10k pods", "s", started, BUDGET, 5.0),
                    Row("100 tunnels get everything", "s", synced, BUDGET, 60.0),
                    *await _pushes(api, tunnels, 10 if quick else 40),
                    *await _sustained(api, tunnels, 3.0 if quick else 10.0),
                    Row("resident memory", "MB", _resident_mb(), BUDGET, 600.0),
                ]
            finally:
                tunnels.process.kill()
                tunnels.process.wait()
            stopping.set()
    return rows


async def _pushes(api: FakeKubeApi, tunnels: Tunnels, many: int) -> list[Row]:
    """Single changes, each to all tunnels before the next; the debounce of 100 ms is in it."""
    delays = []
    for changed in first_pods(many):
        uid = _uid(changed)
        begun = time.monotonic()
        api.put(COLLECTIONS["Pod"], changed)
        await trio.to_thread.run_sync(tunnels.wait, _all_heard(tunnels, uid, 1), 60.0)
        delays += [at - begun for at in tunnels.heard[uid]]
    delays.sort()
    p99 = delays[int(len(delays) * 0.99)]
    return [
        Row("one pod to 100 tunnels, median", "ms", statistics.median(delays) * 1e3, BUDGET, 500.0),
        Row("one pod to 100 tunnels, p99", "ms", p99 * 1e3, BUDGET, 1000.0),
    ]


async def _sustained(api: FakeKubeApi, tunnels: Tunnels, seconds: float) -> list[Row]:
    """50 changes a second; how long after the last one everything has arrived."""
    many = int(seconds * 50)
    begun = time.monotonic()
    for number in range(many):
        home = f"ns{(500 + number) % NAMESPACES}"
        changed = pod((500 + number) * PODS_PER_SERVICE, home, f"app{500 + number}", enrolled=True)
        api.put(COLLECTIONS["Pod"], changed)
        await trio.sleep(max(0.0, begun + (number + 1) / 50 - time.monotonic()))
    ended = time.monotonic()
    await trio.to_thread.run_sync(tunnels.wait, _all_heard(tunnels, _uid(changed), 1), 60.0)
    return [Row("50 changes/s: lag behind the last", "s", time.monotonic() - ended, BUDGET, 2.0)]


def _all_heard(tunnels: Tunnels, uid: str, times: int) -> Callable[[], bool]:
    return lambda: len(tunnels.heard.get(uid, ())) >= TUNNELS * times


def _uid(obj: dict[str, Any]) -> str:
    return f"Kubernetes//Pod/{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _resident_mb() -> float:
    """Of this process: the control plane and the API server's double."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--clients", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clients:
        run_clients(arguments.clients)
    before = report.machine()
    rounds = 1 if arguments.quick else 5
    works: dict[str, Callable[[], list[Row]]] = {
        "index": lambda: full_index(rounds),
        "changes": lambda: single_changes(rounds),
        "program": lambda: trio.run(whole_program, arguments.quick),
    }
    rows: list[Row] = []
    print(f"{'work':36} {'unit':>5} {'ours':>10} {'budget':>10} {'ratio':>7}")
    for name, work in works.items():
        if arguments.only not in name:
            continue
        for row in work():
            rows.append(row)
            print(
                f"{row.work:36} {row.unit:>5} {row.ours:10.3f} {row.theirs:10.0f} {row.ratio:7.1f}",
                flush=True,
            )
    report.write(arguments.json, before, rows)


if __name__ == "__main__":
    main()
