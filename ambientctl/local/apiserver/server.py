"""The embedded API server as the supervisor sees it."""

from __future__ import annotations

import base64
import datetime
import os
import secrets
import socket
import ssl
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from ipaddress import IPv4Network
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambientctl.local.apiserver.core.admitted_writes import Admission
from ambientctl.local.apiserver.core.api import Api
from ambientctl.local.apiserver.core.bootstrap_roles import bootstrap_objects
from ambientctl.local.apiserver.core.certificates import make_serving_certificate
from ambientctl.local.apiserver.core.cluster import (
    SUFFIX_ALPHABET,
    Call,
    Cluster,
    Surroundings,
)
from ambientctl.local.apiserver.core.patches import APPLY_PATCH
from ambientctl.local.apiserver.core.pod_streams import PodCommand, PodLog, PodPort
from ambientctl.local.apiserver.core.rbac import RBAC_GROUP
from ambientctl.local.apiserver.core.requests import Request, Response, load_yaml
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.tokens import TokenAuthority
from ambientctl.local.apiserver.core.watch import BOOKMARK_EVERY_S, Watch
from ambientctl.local.apiserver.io.http import Body, Upgrade, serve_https
from ambientctl.local.apiserver.io.pod_command import Launch, Launched, PodExec
from ambientctl.local.apiserver.io.port_forward import PortForward
from ambientctl.local.apiserver.io.webhook_client import ask_webhooks
from ambientctl.local.apiserver.settings import Settings

SYSTEM_NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")
IN_CLUSTER_NAMES: Final = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)

PodPorts = Callable[[PodPort], Awaitable[trio.abc.Stream]]
"""Connects to a port inside a pod; raises OSError."""
PodLogs = Callable[[PodLog], AsyncGenerator[bytes, None]]
"""Gives the output of a container; raises ``ApiError`` before the first piece when it cannot."""


async def no_ports(wish: PodPort) -> trio.abc.Stream:
    """The ports of a server that runs no pods."""
    raise OSError(f"no container runs in pod {wish.namespace}/{wish.pod}")


async def no_logs(wish: PodLog) -> AsyncGenerator[bytes, None]:
    """The log source of a server that runs no pods."""
    yield f"no container runs in pod {wish.namespace}/{wish.pod}\n".encode()


async def no_commands(wish: PodCommand, fds: Sequence[int]) -> Launched:
    """The commands of a server that runs no pods."""
    raise MeshError(f"no container runs in pod {wish.namespace}/{wish.pod}")


class ApiServer:
    """One Kubernetes API server, in memory, over TLS."""

    def __init__(
        self,
        settings: Settings,
        pod_logs: PodLogs = no_logs,
        pod_ports: PodPorts = no_ports,
        pod_commands: Launch = no_commands,
    ) -> None:
        self.settings = settings
        self._pod_commands = pod_commands
        self._pod_logs = pod_logs
        self._pod_ports = pod_ports
        around = Surroundings(_now, lambda: str(uuid.uuid4()), _suffix)
        self.cluster = Cluster(around, IPv4Network(settings.service_range))
        self.authority = TokenAuthority(self.cluster.store, settings.issuer)
        self._api = Api(self.cluster, self.authority, settings.admin_token, _now)
        names = (*IN_CLUSTER_NAMES, settings.service_address, *settings.names)
        self._certificate = make_serving_certificate(tuple(dict.fromkeys(names)), _now())
        self._make_system_objects()

    @property
    def ca_pem(self) -> str:
        """The CA that clients must trust, PEM."""
        return self._certificate.ca.decode()

    def kubeconfig(self, server_url: str, name: str = "ambient-local") -> Object:
        """A kubeconfig for the administrator; ``server_url`` as clients reach the server."""
        ca = base64.b64encode(self._certificate.ca).decode()
        cluster = {"server": server_url, "certificate-authority-data": ca}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"token": self.settings.admin_token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
            "preferences": {},
        }

    def apply_manifest(self, text: str, manager: str = "ambientctl") -> list[Object]:
        """Server-side apply every document; raises ApiError for the first that is refused."""
        call = Call(manager, force=True, validation="Strict")
        applied = []
        for document in load_yaml(text):
            kind = self.cluster.kind_of(document)
            metadata = document.get("metadata") or {}
            namespace = metadata.get("namespace", "default") if kind.namespaced else ""
            address = (namespace, metadata.get("name", ""))
            applied.append(self.cluster.patch(kind, address, APPLY_PATCH, document, call)[0])
        return applied

    async def serve(
        self,
        listeners: list[socket.socket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve TLS on sockets that already listen, until cancelled; closes them at the end."""
        task_status.started()
        await serve_https(listeners, self._context(), self._answer)

    def _context(self) -> ssl.SSLContext:
        """TLS 1.3 only. HTTP/1.1 is what is offered: every client falls back to it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        # The key stays in memory: OpenSSL reads it from an anonymous file.
        fd = os.memfd_create("serving-certificate", os.MFD_CLOEXEC)
        try:
            os.write(fd, self._certificate.chain + self._certificate.key)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return context

    async def _answer(self, request: Request) -> Response | Body | Upgrade:
        """From what the core decided to what goes out."""
        answer = self._api.handle(request)
        while isinstance(answer, Admission):
            answer = answer.resume(await ask_webhooks(answer.calls))
        match answer:
            case Watch():
                return Body("application/json", _lines(answer))
            case PodLog():
                return Body("text/plain; charset=utf-8", self._pod_logs(answer))
            case PodPort():
                return PortForward(
                    answer.port, lambda port: self._pod_ports(answer._replace(port=port))
                )
            case PodCommand():
                return PodExec(answer, self._pod_commands, lambda: self._output(answer))
            case _:
                return answer

    def _output(self, wish: PodCommand) -> AsyncGenerator[bytes, None]:
        """What a container writes from now on."""
        place = (wish.namespace, wish.pod, wish.container)
        return self._pod_logs(PodLog(*place, True, False, False, 0, None, None))

    def _make_system_objects(self) -> None:
        """The namespaces that every cluster has, and the server's own service."""
        settings = self.settings
        for name in SYSTEM_NAMESPACES:
            self._create("v1", "Namespace", {"metadata": {"name": name}})
        for obj in bootstrap_objects():
            self._create(f"{RBAC_GROUP}/v1", obj["kind"], obj)
        metadata = {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        }
        port = {"name": "https", "port": 443, "targetPort": settings.endpoint_port}
        spec = {"clusterIP": settings.service_address, "ports": [port]}
        self._create("v1", "Service", {"metadata": metadata, "spec": spec})
        if settings.endpoints:
            labels = {"kubernetes.io/service-name": "kubernetes"}
            addresses = {"addresses": list(settings.endpoints), "conditions": {"ready": True}}
            slice_: Object = {
                "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
                "addressType": "IPv4",
                "endpoints": [addresses],
                "ports": [{"name": "https", "port": settings.endpoint_port, "protocol": "TCP"}],
            }
            self._create("discovery.k8s.io/v1", "EndpointSlice", slice_)
            subset = {
                "addresses": [{"ip": address} for address in settings.endpoints],
                "ports": slice_["ports"],
            }
            plain = {"name": "kubernetes", "namespace": "default"}
            self._create("v1", "Endpoints", {"metadata": plain, "subsets": [subset]})

    def _create(self, api_version: str, name: str, obj: Object) -> None:
        kind = self.cluster.catalogue.of(api_version, name)
        assert kind is not None
        namespace = obj["metadata"].get("namespace", "")
        self.cluster.create(kind, namespace, obj, Call("kube-apiserver"))


async def _lines(watch: Watch) -> AsyncGenerator[bytes, None]:
    """What a watch sends: as much as is there, then wait for more."""
    woken = trio.Event()

    def wake() -> None:
        woken.set()

    watch.wake = wake
    try:
        with trio.move_on_after(watch.options.timeout_s):
            while True:
                if watch.lines:
                    lines = b"".join(watch.lines)
                    watch.lines.clear()
                    yield lines
                    continue
                if watch.ended:
                    return
                woken = trio.Event()
                with trio.move_on_after(BOOKMARK_EVERY_S) as quiet:
                    await woken.wait()
                if quiet.cancelled_caught and (bookmark := watch.bookmark()) is not None:
                    yield bookmark
    finally:
        watch.close()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _suffix(length: int) -> str:
    return "".join(secrets.choice(SUFFIX_ALPHABET) for _ in range(length))
