"""The admin endpoint on localhost: state dump, log levels, live connections, shutdown."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, Final

import msgspec
import trio

from ambient.api.address import parse_ip
from ambient.telemetry.core.access_record import Direction
from ambient.telemetry.io.http import Handler, Request, Response, Routes
from ambient.telemetry.io.logs import levels
from ztunnel.core import dump
from ztunnel.io.call import make_call, read_call
from ztunnel.io.connections import LiveConnection
from ztunnel.io.node import Node
from ztunnel.io.pods import Pods
from ztunnel.io.probe import probe, read_targets
from ztunnel.io.profile import profile_routes

JSON: Final = "application/json"
INDEX: Final = """\
/config_dump              the mesh state, certificates and connections, as istioctl reads them
/connections              live connections, and the policy that lets each of them live
/logging                  log levels; POST ?level=<level> or ?level=<scope>=<level>, ?reset
/debug/pprof/profile      where the time goes: ?seconds=10&frequency=100, collapsed stacks
/debug/pprof/heap         what the memory is for
/probe                    POST: ?pod=<uid>&to=<address>,... does this pod reach their tunnels?
/call                     POST: ?pod=<uid>, JSON: connect as this pod's application would
/quitquitquit             POST: drain and end
"""
LOGGING_HELP: Final = (
    "usage: POST /logging                      show the levels\n"
    "       POST /logging?level=<level>        set the level of everything\n"
    "       POST /logging?level=<scope>=<level>,...  set the levels of some scopes\n"
    "       POST /logging?reset[&level=...]    return to the default, then set\n"
)


def admin_routes(node: Node, pods: Pods, stopping: trio.Event, default_levels: str) -> Routes:
    """Everything that the admin port answers."""
    admin = _Admin(node, pods, stopping, default_levels)
    routes = Routes()
    routes.add("/", admin.index, methods=())
    routes.add("/config_dump", admin.config_dump, methods=())
    routes.add("/connections", admin.connections)
    routes.add("/logging", local_only(admin.logging), methods=("GET", "POST"))
    routes.add("/probe", local_only(admin.probe), methods=("POST",))
    routes.add("/call", local_only(admin.call), methods=("POST",))
    routes.add("/quitquitquit", local_only(admin.quit), methods=("POST",))
    routes.include(profile_routes())
    return routes


def local_only(handler: Handler) -> Handler:
    """What changes something is not answered over the network, wherever the port was bound.

    A peer without an address is on a socket that only this process could hand out.
    """

    async def checked(request: Request) -> Response:
        ip = parse_ip(request.peer) if request.peer else None
        if request.method != "GET" and request.peer and (ip is None or not ip.is_loopback):
            return Response(403, "only from this machine\n")
        return await handler(request)

    return checked


class _Admin:
    def __init__(self, node: Node, pods: Pods, stopping: trio.Event, default_levels: str) -> None:
        self._node = node
        self._pods = pods
        self._stopping = stopping
        self._default_levels = default_levels

    async def index(self, _: Request) -> Response:
        """What there is."""
        return Response(200, INDEX)

    async def config_dump(self, _: Request) -> Response:
        """Everything that decisions depend on, in ztunnel's JSON."""
        state = self._node.view.state
        failing = self._node.certs.failing()
        body = {
            "workloads": [
                dump.workload(one) for one in sorted(state.workloads, key=lambda w: w.uid)
            ],
            "services": [
                dump.service(one, state.endpoints(one))
                for one in sorted(state.services, key=lambda s: s.hostname)
            ],
            "policies": [dump.policy(one) for one in sorted(state.policies, key=lambda p: p.key)],
            "stagedServices": {},  # an endpoint without its service has no place of its own
            "staticConfig": {"workloads": [], "policies": [], "services": []},
            "version": dump.build(version("ambient-mesh")),
            "config": dump.config(self._node.settings),
            "certificates": [
                dump.certificate(identity, found, failing.get(identity, ""))
                for identity, found in self._node.certs.states().items()
            ],
            "workloadState": self._workload_state(),
        }
        return _json(body)

    async def connections(self, _: Request) -> Response:
        """Live connections with the policy that lets each of them live."""
        live = sorted(self._node.connections.live, key=lambda one: str(one.record.source.address))
        return _json([_connection(one) for one in live])

    async def logging(self, request: Request) -> Response:
        """Show or set log levels; both ``scope=level`` and ``scope:level`` are understood."""
        if request.method == "GET" or not request.query:
            return Response(200, f"current log level is {levels}\n")
        try:
            if "reset" in request.query:
                levels.replace(self._default_levels)
            levels.update(request.query.get("level", ""))
        except ValueError as error:
            return Response(400, f"{error}\n{LOGGING_HELP}")
        return Response(200, f"current log level is {levels}\n")

    async def probe(self, request: Request) -> Response:
        """Let a pod of ours reach for the tunnels of others; 404 where we do not serve it."""
        pod = self._pods.running.get(request.query.get("pod", ""))
        if pod is None:
            return Response(404, "this tunnel serves no pod of that uid\n")
        try:
            targets = read_targets(request.query.get("to", ""))
        except ValueError as error:
            return Response(400, f"{error}\n")
        return _json(msgspec.to_builtins(await probe(self._node, pod, targets)))

    async def call(self, request: Request) -> Response:
        """Connect as an application of ours would; 404 where we do not serve its pod."""
        pod = self._pods.running.get(request.query.get("pod", ""))
        if pod is None:
            return Response(404, "this tunnel serves no pod of that uid\n")
        try:
            wish = read_call(request.body)
        except ValueError as error:
            return Response(400, f"{error}\n")
        return _json(msgspec.to_builtins(await make_call(self._node, pod, wish)))

    async def quit(self, _: Request) -> Response:
        """Drain and end, as SIGTERM does."""
        self._stopping.set()
        return Response(200, "shutdown now\n")

    def _workload_state(self) -> dict[str, Any]:
        """Pods by UID with their connections; only served pods have any."""
        by_pod: dict[str, dict[str, list[Any]]] = {}
        for live in self._node.connections.live:
            lists = by_pod.setdefault(live.pod.uid, {"inbound": [], "outbound": []})
            lists[str(live.record.direction)].append(_brief(live))
        return {
            uid: {
                "state": "Up",
                "info": {
                    "name": pod.info.name,
                    "namespace": pod.info.namespace,
                    "serviceAccount": pod.info.service_account,
                },
                "connections": by_pod.get(uid, {"inbound": [], "outbound": []}),
            }
            for uid, pod in self._pods.running.items()
        }


def _brief(live: LiveConnection) -> dict[str, Any]:
    record = live.record
    inbound = record.direction is Direction.INBOUND
    actual = live.permit.upstream if live.permit else record.destination.address
    return {
        "src": str(record.source.address),
        "originalDst": (record.service or None) if inbound else (record.hbone_address or None),
        "actualDst": str(actual),
        "protocol": live.protocol,
    }


def _connection(live: LiveConnection) -> dict[str, Any]:
    verdict = live.permit.verdict if live.permit else None
    return {
        "pod": f"{live.pod.namespace}/{live.pod.name}",
        **live.record.opened_fields(),
        "protocol": live.protocol,
        "bytesSent": live.counters.sent,
        "bytesReceived": live.counters.received,
        "policy": verdict.policy if verdict else "",
        "reason": verdict.reason if verdict else live.reason,
    }


def _json(body: object) -> Response:
    return Response(200, json.dumps(body, indent=2) + "\n", JSON)
