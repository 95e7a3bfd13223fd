"""A waypoint of two processes: shared port, joined endpoints, a worker that dies, draining."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from ambient.hbone.io.relay import Relay
from tests.fakes.ca_server import FakeCa
from tests.fakes.xds_server import FakeControlPlane
from tests.netns.test_waypoint import AT, SignedBy, environment, http_get, until_ready
from tests.unit.waypoint.core.test_rate_limit import TARGETS, bucket, http_filter, local
from tests.unit.waypoint.io.rig import WAYPOINT_ID, Rig, http_app
from tests.unit.waypoint.sample import CURL, config, service, subsets, workload
from waypoint.io.duplex import abort

pytestmark = pytest.mark.netns
HOURLY = bucket(7, 1, "3600s")
TWO_AT_ONCE = subsets(trafficPolicy={"connectionPool": {"http": {"http2MaxRequests": 2}}})
HALF = b"POST / HTTP/1.1\r\nhost: reviews:9080\r\ncontent-length: 2\r\n\r\nx"


@asynccontextmanager
async def two_workers(tmp_path, *configs):
    """The mesh, the supervisor's process, and its log."""
    with FakeControlPlane(
        tmp_path, ca=FakeCa(default_identity=WAYPOINT_ID), labels=True
    ) as control:
        control.xds.put(service(), workload("reviews-v1", "127.0.1.1", "v1"), *configs)
        log = tmp_path / "log"
        relay = Relay()
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            mesh = Rig(nursery, relay, SignedBy(control), AT)
            await mesh.ztunnel("127.0.1.1")
            await mesh.app("127.0.1.1", http_app("v1"))
            env = environment(control) | {"WAYPOINT_WORKERS": "2"}
            with log.open("wb") as out, trio.fail_after(90):
                run = partial(
                    trio.run_process, env=env, stdout=out, stderr=subprocess.STDOUT, check=False
                )
                process = await nursery.start(run, [sys.executable, "-m", "waypoint"])
                await until_ready()
                yield mesh, process, log
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                    assert await process.wait() == 0
            nursery.cancel_scope.cancel()


def lines(log: Path):
    whole = log.read_text().rpartition("\n")[0]  # the last line may be half written
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


def running(pid: int) -> bool:
    """Is the process there, and not only waited for?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(log: Path) -> dict[int, int]:
    """The last process id of each worker."""
    started = [line for line in lines(log) if line["message"] == "worker.started"]
    return {line["worker"]: line["pid"] for line in started}


async def fresh_caller(mesh, number: int):
    """A client on a connection of its own: another identity has another tunnel."""
    return await mesh.caller(source=CURL._replace(service_account=f"curl-{number}"))


async def test_both_workers_serve_and_their_numbers_add_up(tmp_path):
    async with two_workers(tmp_path) as (mesh, _, log):
        for number in range(24):
            assert (await (await fresh_caller(mesh, number)).get()).status == 200
        served = [line["worker"] for line in lines(log) if line["message"] == "request complete"]
        assert set(served) == {0, 1}
        _, text = await http_get(15020, "/stats/prometheus")
        counts = [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("istio_requests_total{")
        ]
        assert sum(counts) == 24
        assert "waypoint_workers 2.0" in text
        dumps = [await http_get(15000, f"/config_dump?worker={n}") for n in (0, 1)]
        assert all('"reviews' in body or "reviews" in body for _, body in dumps)
        assert (await http_get(15000, "/config_dump?worker=2"))[0] == 404


async def test_both_workers_take_tokens_of_one_bucket(tmp_path):
    limit = config(
        "EnvoyFilter",
        "rates",
        {"targetRefs": TARGETS, "configPatches": [http_filter(local(7, token_bucket=HOURLY))]},
    )
    async with two_workers(tmp_path, limit) as (mesh, _, log):
        answers = [await (await fresh_caller(mesh, number)).get() for number in range(20)]
        assert [one.status for one in answers] == [200] * 7 + [429] * 13
        served = [line["worker"] for line in lines(log) if line["message"] == "request complete"]
        assert set(served) == {0, 1}


async def under_way() -> list[int]:
    """Requests of the cluster, by worker."""
    pages = [await http_get(15000, f"/clusters?format=json&worker={number}") for number in (0, 1)]
    dumps = [json.loads(page)["cluster_statuses"] for _, page in pages]
    return [sum(c["circuit_breakers"]["active_requests"] for c in dump) for dump in dumps]


async def test_a_limit_is_of_both_workers_and_what_a_dead_one_had_is_free(tmp_path):
    async with two_workers(tmp_path, TWO_AT_ONCE) as (mesh, _, log):
        held = [await fresh_caller(mesh, number) for number in (1, 2)]
        for number, caller in enumerate(held, 1):
            await caller.stream.send_all(HALF)
            while sum(await under_way()) != number:
                await trio.sleep(0.01)
        refused, number = [], 2
        while (
            len({line["worker"] for line in lines(log) if line.get("response_flags") == "UO"}) < 2
        ):
            number += 1
            refused.append(await (await fresh_caller(mesh, number)).get())
        assert {(one.status, one.headers.get("x-envoy-overloaded")) for one in refused} == {
            (503, "true")
        }
        busy = 0 if (await under_way())[0] else 1
        os.kill(workers_of(log)[busy], signal.SIGKILL)
        while not any(line["message"] == "worker.ended" for line in lines(log)):
            await trio.sleep(0.01)  # what waits in its queue is lost with it
        assert (await (await fresh_caller(mesh, number + 1)).get()).status == 200
        for caller in held:
            abort(caller.stream)


async def test_a_worker_that_dies_is_replaced_while_the_other_one_serves(tmp_path):
    async with two_workers(tmp_path) as (mesh, _, log):
        first = workers_of(log)
        os.kill(first[0], signal.SIGKILL)
        while not any(line["message"] == "worker.ended" for line in lines(log)):
            await trio.sleep(0.01)  # what waits in its queue is lost with it
        number = 100
        while workers_of(log).get(0) == first[0]:
            number += 1
            assert (await (await fresh_caller(mesh, number)).get()).status == 200
            assert (await http_get(15021, "/healthz/ready"))[0] == 200
        while "waypoint_worker_restarts_total 1.0" not in (await http_get(15020, "/metrics"))[1]:
            await trio.sleep(0.05)
        served: set[int] = set()
        while served != {0, 1}:
            number += 1
            assert (await (await fresh_caller(mesh, number)).get()).status == 200
            served = {
                line["worker"] for line in lines(log)[-10:] if line["message"] == "request complete"
            }


async def test_without_its_supervisor_a_worker_drains_and_ends(tmp_path):
    async with two_workers(tmp_path) as (mesh, process, log):
        pids = workers_of(log).values()
        caller = await mesh.caller()
        assert (await caller.get()).status == 200
        process.kill()
        await process.wait()
        for pid in pids:
            while running(pid):
                await trio.sleep(0.05)
