"""The embedded API server and its controllers, started and joined to the mesh."""

from __future__ import annotations

import base64
import datetime
import os
import secrets
import socket
import ssl
import uuid
from collections.abc import AsyncGenerator
from ipaddress import IPv4Network
from typing import Any, Final

import trio
import yaml

from ambient.kube.core.resources import ENDPOINT_SLICES, NAMESPACES, SERVICES, KubeObject
from ambientctl.local.apiserver.core.api import Api, PodLog
from ambientctl.local.apiserver.core.certificates import (
    ServingCertificate,
    make_serving_certificate,
)
from ambientctl.local.apiserver.core.cluster import (
    SUFFIX_ALPHABET,
    Cluster,
    Surroundings,
)
from ambientctl.local.apiserver.core.requests import Request, Response
from ambientctl.local.apiserver.core.tokens import TokenAuthority
from ambientctl.local.apiserver.core.watch import BOOKMARK_EVERY_S, Watch
from ambientctl.local.apiserver.io.http import Body, serve_https
from ambientctl.local.controllers.run import run_controllers
from ambientctl.local.direct_api import DirectApi
from ambientctl.local.layout import (
    API_PORT,
    API_SERVICE_ADDRESS,
    CLUSTER_DOMAIN,
    FABRIC_ADDRESS,
    SERVICE_RANGE,
    MeshConfig,
)
from ambientctl.local.log_files import log_path
from ambientctl.local.pod_logs import LogWish, read_log
from ambientctl.local.state_folder import StateFolder

SERVICE: Final = "kubernetes"
ISSUER: Final = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"
NAMES: Final = (
    "localhost",
    SERVICE,
    f"{SERVICE}.default",
    f"{SERVICE}.default.svc",
    f"{SERVICE}.default.svc.{CLUSTER_DOMAIN}",
    "127.0.0.1",
    FABRIC_ADDRESS,
    API_SERVICE_ADDRESS,
)
"""What clients call the server: kubectl on the host, nodes, pods."""


class ClusterApi:
    """One API server: over HTTPS for everybody, without it for the supervisor's own parts."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._cluster = Cluster(
            Surroundings(_now, lambda: str(uuid.uuid4()), _suffix), IPv4Network(SERVICE_RANGE)
        )
        self._tokens = TokenAuthority(self._cluster.store, ISSUER)
        self._admin_token = secrets.token_urlsafe(32)
        self._api = Api(self._cluster, self._tokens, self._admin_token, _now)

    @classmethod
    async def start(
        cls, nursery: trio.Nursery, config: MeshConfig, folder: StateFolder
    ) -> ClusterApi:
        """Serve on the host's loopback and on the fabric; write the kubeconfig."""
        self = cls(folder)
        certificate = make_serving_certificate(NAMES, _now())
        fabric = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        fabric.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        fabric.bind((FABRIC_ADDRESS, API_PORT))
        fabric.listen(256)
        host = socket.socket(fileno=config.api_fd)
        nursery.start_soon(serve_https, [host, fabric], _context(certificate), self._answer)
        await nursery.start(run_controllers, self._cluster, certificate.ca.decode())
        write_kubeconfig(folder, config, certificate.ca, self._admin_token)
        api = self.direct("ambientctl-local")
        for obj in own_objects():
            await api.apply(obj)
        return self

    def direct(self, manager: str) -> DirectApi:
        """The API without HTTP, writing as this field manager."""
        return DirectApi(self._cluster, self._tokens, manager)

    async def _answer(self, request: Request) -> Response | Body:
        answer = self._api.handle(request)
        if isinstance(answer, Watch):
            return Body("application/json", _lines(answer))
        if isinstance(answer, PodLog):
            path = log_path(self._folder.logs, answer.namespace, answer.pod, answer.container)
            wish = LogWish(
                follow=answer.follow,
                timestamps=answer.timestamps,
                tail_lines=answer.tail_lines,
                since_seconds=answer.since_seconds,
                limit_bytes=answer.limit_bytes,
            )
            return Body("text/plain; charset=utf-8", read_log(path, wish))
        return answer


async def _lines(watch: Watch) -> AsyncGenerator[bytes, None]:
    """A watch's lines as they come, bookmarks in between, until its time is over."""
    news = trio.Event()

    def wake() -> None:
        news.set()

    watch.wake = wake
    deadline = trio.current_time() + watch.options.timeout_s
    try:
        while True:
            news = trio.Event()
            while watch.lines:
                yield b"".join(_taken(watch))
            if watch.ended:
                return
            pause_s = min(BOOKMARK_EVERY_S, deadline - trio.current_time())
            if pause_s <= 0:
                return
            with trio.move_on_after(pause_s) as quiet:
                await news.wait()
            if quiet.cancelled_caught and (bookmark := watch.bookmark()):
                yield bookmark
    finally:
        watch.close()


def _taken(watch: Watch) -> list[bytes]:
    lines = list(watch.lines)
    watch.lines.clear()
    return lines


def own_objects() -> list[KubeObject]:
    """The namespace that every cluster has, and the API server as a service in it."""
    meta: dict[str, Any] = {"name": SERVICE, "namespace": "default"}
    ports = [{"name": "https", "port": 443, "targetPort": API_PORT, "protocol": "TCP"}]
    labels = {
        "kubernetes.io/service-name": SERVICE,
        "endpointslice.kubernetes.io/managed-by": "ambientctl-local",
    }
    return [
        {"apiVersion": "v1", "kind": NAMESPACES.kind, "metadata": {"name": "default"}},
        {
            "apiVersion": "v1",
            "kind": SERVICES.kind,
            "metadata": meta,
            "spec": {"clusterIP": API_SERVICE_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": ENDPOINT_SLICES.api_version,
            "kind": ENDPOINT_SLICES.kind,
            "metadata": {**meta, "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [FABRIC_ADDRESS], "conditions": {"ready": True}}],
        },
    ]


def write_kubeconfig(folder: StateFolder, config: MeshConfig, ca: bytes, token: str) -> None:
    """The administrator's way in, readable by the owner only."""
    name = f"ambient-{config.name}"
    server = {
        "server": f"https://127.0.0.1:{config.api_port}",
        "certificate-authority-data": base64.b64encode(ca).decode(),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": server}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    new = folder.kubeconfig.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        yaml.safe_dump(content, out, sort_keys=False)
    new.rename(folder.kubeconfig)


def _context(certificate: ServingCertificate) -> ssl.SSLContext:
    """TLS for the server; the key goes through memory only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    memory = os.memfd_create("serving-certificate", os.MFD_CLOEXEC)
    try:
        os.write(memory, certificate.key + certificate.chain)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _suffix(length: int) -> str:
    return "".join(secrets.choice(SUFFIX_ALPHABET) for _ in range(length))
