"""The web page: files for the browser, and the mesh as JSON behind a token."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from typing import Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.kube.io.client import KubeClient
from ambient.telemetry.io.http import Handler, Request, Response
from istiod_lite.core import mesh_page
from istiod_lite.core.index import Index
from istiod_lite.core.issue import RefusedError
from istiod_lite.core.mesh_page import Certificate, Operation, Proxy
from istiod_lite.io.authenticator import Authenticator
from istiod_lite.io.traffic_watch import TrafficWatch
from istiod_lite.io.xds_clients import Stream
from istiod_lite.settings import Settings

AUDIENCE: Final = "ambient-dashboard"
"""Of the token; one for anything else does not open the page, and this one nothing else."""
FOLDER: Final = "/dashboard"
FILES: Final = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "graph.js": ("graph.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "cytoscape.min.js": ("cytoscape.min.js", "text/javascript; charset=utf-8"),
}
# Only our own files, nothing inline but styles (the graph library sets those), no frames.
HEADERS: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'",
    ),
    ("X-Frame-Options", "DENY"),  # the same for what is older than frame-ancestors
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


class Dashboard:
    """Read only. ``certificates`` are those of the control plane itself, once there are any."""

    def __init__(self, settings: Settings, kube: KubeClient, index: Index) -> None:
        self._settings = settings
        self._index = index
        self._authenticator = Authenticator(kube, AUDIENCE, settings.cluster_id)
        self.traffic = TrafficWatch(index, settings.pod_namespace)
        self.certificates: Callable[[], tuple[Certificate, ...]] = tuple
        self.streams: Callable[[], list[Stream]] = list
        self.stale_s: Callable[[], float] = lambda: 0.0

    def routes(self) -> dict[str, Handler]:
        """By path."""
        served = {f"{FOLDER}/{path}": _file(*file) for path, file in FILES.items()}
        return {FOLDER: _moved, **served, f"{FOLDER}/mesh.json": self._mesh}

    async def _mesh(self, request: Request) -> Response:
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        operation = Operation(
            version=version("ambient-mesh"),
            stale_s=self.stale_s(),
            certificates=self.certificates(),
            proxies=tuple(_proxy(stream) for stream in self.streams()),
        )
        page = mesh_page.page(self._index, self.traffic.look(), operation)
        return Response(200, msgspec.json.encode(page), "application/json", HEADERS)

    async def _refusal(self, request: Request) -> Response | None:
        """Also on the loopback: a forwarded port is open to every user of that machine."""
        header = request.headers.get("authorization", "")
        try:
            caller = await self._authenticator.bearer([header])
        except RefusedError:
            text = f"send a token for {AUDIENCE}: ambientctl dashboard gets one\n"
            return Response(401, text, headers=(("WWW-Authenticate", "Bearer"), *HEADERS))
        except trio.TooSlowError:
            return Response(
                503, "the API server takes too long to look at the token\n", headers=HEADERS
            )
        except MeshError as error:
            return Response(503, f"{error}\n", headers=HEADERS)
        if caller.namespace != self._settings.pod_namespace:
            text = f"only for accounts of {self._settings.pod_namespace}\n"
            return Response(403, text, headers=HEADERS)
        return None


def _proxy(stream: Stream) -> Proxy:
    states = dict(stream.state.types)
    errors = [f"{url.rpartition('.')[2]}: {one.error}" for url, one in states.items() if one.error]
    synced = all(one.status == "SYNCED" for one in states.values())
    return Proxy(stream.node.name, stream.node.kind, synced, "; ".join(errors))


def _file(name: str, content_type: str) -> Handler:
    body = (files("istiod_lite") / "static" / name).read_bytes()

    async def handler(_: Request) -> Response:
        return Response(200, body, content_type, HEADERS)

    return handler


async def _moved(_: Request) -> Response:
    return Response(308, "", headers=(("Location", f"{FOLDER}/"),))
