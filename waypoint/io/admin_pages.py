"""Clusters, levels of logs, and who this process is: more pages for operators, on localhost."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from ambient.telemetry.io.http import Request, Response, Routes
from ambient.telemetry.io.logs import levels
from waypoint.core.cluster import Cluster
from waypoint.core.host import Host
from waypoint.io.service import Service
from waypoint.settings import Settings

JSON: Final = "application/json"
Handler = Callable[[Request], Awaitable[Response]]
LOGGING_HELP: Final = (
    "usage: POST /logging                      show the levels\n"
    "       POST /logging?level=<level>        set the level of everything\n"
    "       POST /logging?level=<scope>=<level>,...  set the levels of some scopes\n"
    "       POST /logging?reset[&level=...]    return to the default, then set\n"
)


def add_pages(routes: Routes, service: Service, settings: Settings, version: str) -> None:
    """``/clusters``, ``/logging`` and ``/server_info``."""
    begun_s = time.time()
    default_levels = str(levels)

    async def clusters(request: Request) -> Response:
        found = sorted(service.clusters, key=lambda cluster: cluster.name)
        for cluster in found:
            cluster.refresh()
        if request.query.get("format") == "json":
            dump = {"cluster_statuses": [_status(cluster) for cluster in found]}
            return Response(200, msgspec.json.format(msgspec.json.encode(dump)), JSON)
        return Response(200, "".join(line for cluster in found for line in _lines(cluster)))

    async def logging(request: Request) -> Response:
        """Both ``scope=level`` and ``scope:level`` are understood."""
        if request.method == "GET" or not request.query:
            return Response(200, f"current log level is {levels}\n")
        try:
            if "reset" in request.query:
                levels.replace(default_levels)
            levels.update(request.query.get("level", ""))
        except ValueError as error:
            return Response(400, f"{error}\n{LOGGING_HELP}")
        return Response(200, f"current log level is {levels}\n")

    async def server_info(_: Request) -> Response:
        info = {
            "version": version,
            "state": "DRAINING" if service.draining else "LIVE",
            "uptime_current_epoch": f"{int(time.time() - begun_s)}s",
            "node": {
                "id": f"waypoint~{settings.instance_ip}~{settings.pod_name}"
                f".{settings.pod_namespace}~{settings.pod_namespace}.svc.{settings.cluster_domain}",
                "cluster": f"{settings.service_account}.{settings.pod_namespace}",
            },
            "identity": str(settings.identity),
            "spans": {
                "sent": service.reports.spans.sent,
                "dropped": service.reports.spans.dropped,
            },
            "access_logs": {
                "sent": service.reports.sent_logs.sent,
                "dropped": service.reports.sent_logs.dropped,
            },
        }
        return Response(200, msgspec.json.format(msgspec.json.encode(info)), JSON)

    routes.add("/clusters", clusters)
    routes.add("/logging", logging, methods=("GET", "HEAD", "POST"))
    routes.add("/server_info", server_info)


def _lines(cluster: Cluster) -> list[str]:
    """In Envoy's form: ``cluster::address::name::value``."""
    name = cluster.name
    found = [
        f"{name}::active_requests::{cluster.requests}\n",
        f"{name}::active_retries::{cluster.retries}\n",
        f"{name}::pending_requests::{cluster.pending}\n",
        f"{name}::connections::{cluster.connections}\n",
    ]
    for host in cluster.hosts.values():
        at = f"{name}::{host.target.address}"
        found.append(f"{at}::rq_active::{host.active}\n")
        found.append(f"{at}::health_flags::{_health(host)}\n")
        found.append(f"{at}::weight::{host.weight}\n")
        found.append(f"{at}::workload::{host.target.workload.uid}\n")
    return found


def _health(host: Host) -> str:
    return "/failed_outlier_check" if host.monitor.ejected else "healthy"


def _status(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "circuit_breakers": {
            "active_requests": cluster.requests,
            "active_retries": cluster.retries,
            "pending_requests": cluster.pending,
            "connections": cluster.connections,
        },
        "host_statuses": [
            {
                "address": str(host.target.address),
                "workload": host.target.workload.uid,
                "hbone": host.target.hbone,
                "active_requests": host.active,
                "weight": host.weight,
                "health": _health(host),
            }
            for host in cluster.hosts.values()
        ],
    }
