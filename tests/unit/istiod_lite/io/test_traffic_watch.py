"""Tunnels and waypoints are asked while somebody watches, and only then."""

from __future__ import annotations

import pytest
import trio

from ambient.telemetry.core.traffic import Pair, Party
from ambient.telemetry.io.http import Response, Routes, listen, serve_http
from istiod_lite.core.index import Index
from istiod_lite.io import traffic_watch
from istiod_lite.io.traffic_watch import TrafficWatch
from tests.unit.istiod_lite.objects import namespace, node, pod

CALL = Pair(Party("shop", "web"), Party("shop", "api"), "")
LABELS = (
    'reporter="destination",source_workload_namespace="shop",source_workload="web",'
    'destination_workload_namespace="shop",destination_workload="api",'
    'connection_security_policy="mutual_tls"'
)
DEADLINE_S = 20


class Tunnel:
    """A stand-in that answers with a growing count, or with whatever it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.text: str | None = None

    async def answer(self, _: object) -> Response:
        self.asked += 1
        if self.text is not None:
            return Response(200, self.text)
        counted = f"istio_tcp_connections_opened_total{{{LABELS}}} {self.asked * 10}\n"
        hits = f'ambient_policy_decisions_total{{policy="shop/p",decision="deny"}} {self.asked}\n'
        return Response(200, counted + hits)


@pytest.fixture
async def tunnel(nursery, monkeypatch):
    monkeypatch.setattr(traffic_watch, "LOOK_S", 0.01)
    made = Tunnel()
    routes = Routes()
    routes.add("/metrics", made.answer)
    listeners = await listen("127.0.0.1", 0)
    made.port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(serve_http, listeners, routes)
    return made


def index(*pods):
    made = Index()
    made.load({"Namespace": [namespace("istio-system")], "Node": [node("n1")], "Pod": pods})
    return made


def zt(ip="127.0.0.1", name="zt"):
    return pod(name, "istio-system", ip, labels={"app": "ztunnel"})


async def until(true):
    with trio.fail_after(DEADLINE_S):
        while not true():
            await trio.sleep(0.005)


async def test_rates_need_two_looks(tunnel, nursery):
    other = pod("web", "shop", "127.0.0.1", labels={"app": "web"})
    watch = TrafficWatch(index(zt(), other), "istio-system", tunnel.port)
    nursery.start_soon(watch.run)
    await until(lambda: watch.look().rates)
    assert watch.measured.rates[CALL].opened > 0
    assert watch.measured.rates[CALL].secured == 1.0
    assert watch.measured.decisions["shop/p"].denied >= 2
    assert watch.measured.unreachable == ()


async def test_nobody_is_asked_while_nobody_watches(tunnel, nursery, monkeypatch):
    monkeypatch.setattr(traffic_watch, "WATCHED_S", 0.05)
    watch = TrafficWatch(index(zt()), "istio-system", tunnel.port)
    nursery.start_soon(watch.run)
    await trio.testing.wait_all_tasks_blocked()
    assert tunnel.asked == 0
    watch.look()
    await until(
        lambda: tunnel.asked and watch.measured.seconds is None and not watch.measured.rates
    )
    await until(lambda: watch._asked.is_set() is False)
    asked = tunnel.asked
    await trio.testing.wait_all_tasks_blocked()
    assert tunnel.asked == asked


async def test_a_tunnel_that_does_not_answer_is_named(tunnel, nursery):
    watch = TrafficWatch(index(zt(), zt("127.0.0.2", "gone")), "istio-system", tunnel.port)
    nursery.start_soon(watch.run)
    await until(lambda: watch.look().rates)
    assert watch.measured.unreachable == ("istio-system/gone",)


@pytest.mark.parametrize("text", ["<html>", "x" * 2000])
async def test_rubbish_and_floods_cost_nothing(tunnel, nursery, monkeypatch, text):
    monkeypatch.setattr(traffic_watch, "MAX_BYTES", 1000)
    tunnel.text = text
    watch = TrafficWatch(index(zt()), "istio-system", tunnel.port)
    nursery.start_soon(watch.run)
    await until(lambda: watch.look().seconds is not None)
    assert watch.measured.rates == {}
