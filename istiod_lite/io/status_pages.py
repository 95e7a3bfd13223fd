"""``/ready`` and ``/debug``: is it ready, what does it know, what do its clients have."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import IntEnum
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from ambient.api.errors import MeshError
from ambient.api.type_urls import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    CONFIG_TYPE,
    SECRET_TYPE,
    WORKLOAD_TYPE,
)
from ambient.telemetry.io.http import Handler, Request, Response, Routes
from istiod_lite.core.federation import GATEWAY_PREFIX, Federation
from istiod_lite.core.index import Index
from istiod_lite.core.issue import RefusedError
from istiod_lite.core.mesh_page import problems
from istiod_lite.io.ambient_page import ambient_page, service_json, workload_json
from istiod_lite.io.authenticator import Authenticator
from istiod_lite.io.xds_clients import Stream
from istiod_lite.io.xds_server import XdsService
from istiod_lite.settings import Settings


class StatusPages:
    """The routes of the HTTP port. ``pending`` names what is not done yet."""

    def __init__(
        self,
        settings: Settings,
        index: Index,
        federation: Federation,
        pending: Callable[[], list[str]],
    ) -> None:
        self._settings = settings
        self._index = index
        self._federation = federation
        self.remotes: Callable[[], list[dict[str, str]]] = list
        """The other clusters."""
        self._pending = pending
        self.stale_s: Callable[[], float] = lambda: 0.0
        """How long the API server has been away."""
        self.xds: XdsService | None = None
        self.authenticator: Authenticator | None = None

    def routes(self) -> Routes:
        """Everything that is served."""
        routes = Routes()
        routes.add("/ready", self._ready)
        for path, handler in self.debug_routes().items():
            routes.add(path, handler)
        return routes

    def debug_routes(self) -> dict[str, Handler]:
        """The pages for operators, also served beside the metrics."""

        def shown(page: Callable[[], Any]) -> Handler:
            return self._guarded(lambda _: page())

        routes = {f"/debug/{name}": shown(page) for name, page in self.pages().items()}
        dump = self._guarded(lambda request: self._config_dump(request.query.get("proxyID", "")))
        return {**routes, "/debug/config_dump": dump, "/version": _version}

    def pages(self) -> dict[str, Callable[[], Any]]:
        """Status by name; the names are Istio's where the content is."""
        index, all_ = self._index, self._federation
        pages: dict[str, Callable[[], Any]] = {
            "adsz": self._adsz,
            "analysis": lambda: problems(index),
            "ambientz": lambda: ambient_page(
                all_.workloads.values(), all_.services.values(), index.authorizations.values()
            ),
            "authorizationz": lambda: {
                "authorization_policies": [_plain(one) for one in index.authorizations.values()]
            },
            "clusterz": self._clusterz,
            "configz": self._configz,
            "connections": self._connections,
            "endpointz": self._endpointz,
            "index": self._index_page,
            "mesh": lambda: _plain(index.facts),
            "networkz": self._networkz,
            "registryz": lambda: [_plain(one) for one in all_.services.values()],
            "syncz": self._syncz,
        }
        return {**pages, "list": lambda: sorted([*pages, "config_dump", "list"])}

    async def page(self, name: str) -> bytes | None:
        """One page as JSON, None for unknown names. What follows ``?`` is its query."""
        path, _, query = name.partition("?")
        if path == "config_dump":
            return _json(self._config_dump(dict(parse_qsl(query)).get("proxyID", "")))
        found = self.pages().get(path)
        return _json(found()) if found is not None else None

    def _guarded(self, page: Callable[[Request], Any]) -> Handler:
        """Pages about the whole mesh are for its operators: local, or of the system namespace."""

        async def handler(request: Request) -> Response:
            if request.peer not in ("127.0.0.1", "::1"):
                refusal = await self._refusal(request)
                if refusal is not None:
                    return refusal
            return Response(200, _json(page(request)), "application/json")

        return handler

    async def _refusal(self, request: Request) -> Response | None:
        if self.authenticator is None:
            return Response(503, "not ready\n")
        header = request.headers.get("authorization", "")
        try:
            caller = await self.authenticator.bearer([header])
        except RefusedError:
            return Response(401, "send authorization: Bearer <token for audience istio-ca>\n")
        except MeshError as error:
            return Response(503, f"{error}\n")
        if caller.namespace != self._settings.pod_namespace:
            return Response(403, f"only for accounts of {self._settings.pod_namespace}\n")
        return None

    async def _ready(self, _: Request) -> Response:
        pending = self._pending()
        if pending:
            return Response(503, f"not ready, pending: {', '.join(pending)}\n")
        stale_s = self.stale_s()
        if stale_s:
            # Proxies are better off with what we know than with nobody.
            return Response(200, f"ready, but the API server is away for {stale_s:.0f} s\n")
        return Response(200, "ready\n")

    def _configz(self) -> Any:
        inputs = self._index.inputs
        return {
            "settings": {
                field.name: getattr(self._settings, field.name)
                for field in msgspec.structs.fields(Settings)
            },
            "configs": list(inputs.configs.values()),
            "remarks": [
                {"kind": one.kind, "object": str(one.key), "text": one.text}
                for one in self._index.remarks()
            ],
        }

    def _index_page(self) -> Any:
        index = self._index
        return {
            "workloads": [_plain(one) for one in index.workloads.values()],
            "services": [_plain(one) for one in index.services.values()],
            "policies": [_plain(one) for one in index.authorizations.values()],
            "bindings": {
                str(ref): {"gateway": str(one.gateway), "reason": one.reason.value}
                for ref, one in index.bindings.items()
            },
        }

    def _streams(self) -> list[Stream]:
        return self.xds.streams if self.xds is not None else []

    def _connections(self) -> Any:
        clients = [_short(one) for one in self._streams()]
        return {"totalClients": len(clients), "clients": clients}

    def _adsz(self) -> Any:
        clients = [
            {
                **_short(one),
                "metadata": one.node.metadata,
                "watches": {
                    url: sorted(state.subscribed) if not state.wildcard else ["*"]
                    for url, state in dict(one.state.types).items()
                },
            }
            for one in self._streams()
        ]
        return {"totalClients": len(clients), "clients": clients}

    def _endpointz(self) -> Any:
        """By service: which workloads are behind it, and whether they are healthy."""
        found: dict[str, list[dict[str, Any]]] = {key: [] for key in self._federation.services}
        for uid, workload in self._federation.workloads.items():
            for name, ports in workload.services.items():
                found.setdefault(str(name), []).append(
                    {
                        "workload": uid,
                        "addresses": [str(one) for one in workload.addresses],
                        "ports": {str(one.service_port): one.target_port for one in ports},
                        "status": workload.status.name,
                        "network": workload.network,
                        "cluster": workload.cluster_id,
                    }
                )
        return [{"service": name, "endpoints": found[name]} for name in sorted(found)]

    def _networkz(self) -> Any:
        """Gateways of other networks."""
        return [
            {
                "network": one.network,
                "gateway": f"{one.namespace}/{one.name}",
                "addresses": [str(address) for address in one.addresses] or [one.hostname],
                "serviceAccount": one.service_account,
            }
            for uid, one in self._federation.workloads.items()
            if uid.startswith(GATEWAY_PREFIX)
        ]

    def _config_dump(self, proxy: str) -> Any:
        """What one client is sent, by type; ``proxy`` is ``<pod>.<namespace>``."""
        stream = next((one for one in self._streams() if one.node.name == proxy), None)
        if stream is None:
            known = sorted(one.node.name for one in self._streams())
            return {"error": f"no client {proxy!r} is connected here", "connected": known}
        index, gateway = self._index, None
        if self.xds is not None:
            gateway = stream.node.gateway(self.xds.snapshot, self._settings.cluster_id)
        configs: dict[str, Any] = {}
        for url in dict(stream.state.types):
            if url in (ADDRESS_TYPE, WORKLOAD_TYPE):
                configs[url] = {
                    "workloads": [
                        workload_json(one) for one in self._federation.workloads.values()
                    ],
                    "services": [service_json(one) for one in self._federation.services.values()],
                }
            elif url == AUTHORIZATION_TYPE:
                configs[url] = [_plain(one) for one in index.authorizations.values()]
            elif url == CONFIG_TYPE and gateway is not None:
                configs[url] = list(index.configs_for_waypoint(*gateway).values())
            elif url == SECRET_TYPE and gateway is not None:
                held = index.credentials_for_waypoint(*gateway).values()
                configs[url] = [{"name": one.name, "empty": one.empty} for one in held]
        return {"proxy": proxy, "configs": configs}

    def _clusterz(self) -> Any:
        ours = {"id": self._settings.cluster_id, "secretName": "", "syncStatus": "synced"}
        return [ours, *self.remotes()]

    def _syncz(self) -> Any:
        short = {
            ADDRESS_TYPE: "WDS",
            AUTHORIZATION_TYPE: "WADS",
            CONFIG_TYPE: "CONFIG",
            SECRET_TYPE: "SDS",
        }
        return [
            {
                "proxy": stream.node.name,
                "proxy_type": stream.node.kind,
                "proxy_version": stream.node.version,
                "istio_version": stream.node.version,
                "cluster_id": stream.node.cluster_id or self._settings.cluster_id,
                "peer": stream.peer,
                "connected_at": stream.connected_at,
                "resources": {
                    url: {
                        "name": short.get(url, url),
                        "status": state.status,
                        "sent": state.sent_nonce,
                        "acked": state.acked_nonce,
                        "sentTime": _moment(stream.sent_at.get(url)),
                        "lastError": state.error,
                    }
                    for url, state in dict(stream.state.types).items()
                },
            }
            for stream in self._streams()
        ]


async def _version(_: Request) -> Response:
    return Response(200, f"{version('ambient-mesh')}\n")


def _short(stream: Stream) -> dict[str, Any]:
    return {
        "connectionId": stream.id,
        "connectedAt": _moment(stream.connected_at),
        "address": stream.peer,
    }


def _moment(unix: float | None) -> str | None:
    """RFC 3339; None for never."""
    return datetime.fromtimestamp(unix, UTC).isoformat() if unix else None


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=1) + b"\n"


def _plain(value: Any) -> Any:
    """A struct as JSON can hold it: addresses and keys as text, enums by name."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return [_plain(one) for one in value]
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, str | int | None):
        return value
    if hasattr(value, "_fields"):
        return "/".join(str(one) for one in value)
    return str(value)
