"""The validating webhook: 15017 over TLS, and our part of its configuration."""

from __future__ import annotations

import base64
import os
import ssl
from typing import Any, Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict, KubeError, NotFound
from ambient.kube.core.resources import PEER_AUTHENTICATIONS, Resource
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.http import Request, Response, Routes, listen, serve_http
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core import admission
from istiod_lite.core.admission import ReviewError, review
from istiod_lite.core.validation.objects import ALWAYS_REJECT, KINDS
from istiod_lite.io.issuer import Issuer
from istiod_lite.io.metrics import Metrics
from istiod_lite.io.serving import Keypair, ServingCertificate

CONFIGURATIONS: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)
DEFAULT_VALIDATOR: Final = "istiod-default-validator"
WEBHOOK_SUFFIX: Final = "validation.istio.io"
"""Ours are ``validation.istio.io`` and ``rev.validation.istio.io``."""
MAX_REVIEW_BYTES: Final = 8 << 20
"""The object and the one before it; etcd refuses objects over 1.5 MiB, JSON may swell them."""
RETRY_S: Final = 5.0
CERTIFICATE_CHECK_S: Final = 60.0
PROBE_WAIT_S: Final = 2.0
"""Between two tries whether the API server reaches us."""

log = get_logger("webhook")


class Webhook:
    """The server. Plain functions judge, so it holds no state but its certificate."""

    def __init__(self, serving: ServingCertificate, metrics: Metrics) -> None:
        self._serving = serving
        self._metrics = metrics
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # API servers of clusters that are still supported speak 1.3.
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.set_alpn_protocols(["http/1.1"])
        self._pair: Keypair | None = None

    async def run(
        self, host: str, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; starts with the bound port. Raises OSError."""
        self.refresh()
        listeners = await listen(host, port)
        task_status.started(listeners[0].socket.getsockname()[1])
        secure = [trio.SSLListener(one, self._context) for one in listeners]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_certificate)
            await serve_http(secure, self.routes(), max_body_bytes=MAX_REVIEW_BYTES)

    def refresh(self) -> None:
        """Show a new certificate from the next handshake on, if one is due."""
        if self._pair is not None and self._serving.is_current(self._pair):
            return
        self._pair = self._serving.made()
        # The key stays in memory: OpenSSL reads it from an anonymous file.
        fd = os.memfd_create("webhook-certificate", os.MFD_CLOEXEC)
        try:
            os.write(fd, self._pair.key + self._pair.chain)
            self._context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def routes(self) -> Routes:
        """What is served."""
        routes = Routes()
        routes.add("/validate", self._validate, methods=("POST",))
        routes.add("/ready", _ready)
        return routes

    async def _validate(self, request: Request) -> Response:
        try:
            verdict = review(request.body)
        except ReviewError as error:
            self._metrics.admission_errors.labels("400").inc()
            return Response(400, f"{error}\n")
        asked = verdict.request
        labels = _labels(asked.resource)
        if verdict.reason:
            self._metrics.not_admitted.labels(*labels, verdict.reason).inc()
            log.info(
                Event.ADMISSION_REFUSED,
                kind=asked.kind.kind,
                object=f"{asked.namespace}/{asked.name}",
                reason=verdict.message[:500],
            )
        else:
            self._metrics.admitted.labels(*labels).inc()
        return Response(200, verdict.body, "application/json")

    async def _keep_certificate(self) -> None:
        while True:
            await trio.sleep(CERTIFICATE_CHECK_S)
            self.refresh()


class WebhookConfiguration:
    """Puts our roots into the configuration, and makes it binding once it is known to work.

    Until the API server has been seen to reach us a failure must not keep anybody from writing;
    from then on an object that nobody has judged must not get in.
    """

    def __init__(
        self, kube: KubeClient, issuer: Issuer, metrics: Metrics, namespace: str, revision: str
    ) -> None:
        self._kube = kube
        self._issuer = issuer
        self._metrics = metrics
        self._namespace = namespace
        middle = "" if revision == "default" else f"-{revision}"
        self._names = frozenset({f"istio-validator{middle}-{namespace}", DEFAULT_VALIDATOR})
        self._wake = trio.Event()
        self._found: dict[str, dict[str, Any]] = {}

    def look(self) -> None:
        """The roots have changed."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled; run by the leader only."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                try:
                    for name in self._names & self._found.keys():
                        await self._patch(name, binding=False)
                    if any(not _is_binding(one) for one in self._found.values()):
                        await self._until_reached()
                        for name in self._names & self._found.keys():
                            await self._patch(name, binding=True)
                except Conflict:
                    self._wake.set()  # somebody wrote in between
                except MeshError as error:
                    reason = error.reason if isinstance(error, KubeError) else "unreachable"
                    self._metrics.webhook_update_errors.labels(reason or "unknown").inc()
                    log.warning(Event.CONTROLLER_RETRY, what="ValidatingWebhookConfiguration",
                                error=str(error), hint=error.hint, wait_s=RETRY_S)  # fmt: skip
                    await trio.sleep(RETRY_S)
                    self._wake.set()

    async def _follow(self) -> None:
        async with follow(self._kube, CONFIGURATIONS) as events:
            async for event in events:
                if event.kind is EventKind.SYNCED:
                    continue
                name = str(event.object["metadata"]["name"])
                if name not in self._names:
                    continue
                if event.kind is EventKind.DELETED:
                    self._found.pop(name, None)
                else:
                    self._found[name] = event.object
                self._wake.set()

    async def _patch(self, name: str, *, binding: bool) -> None:
        found = self._found[name]
        wanted = configured(found, self._issuer.roots_pem, binding=binding)
        if wanted == found:
            return
        self._found[name] = await self._kube.replace(CONFIGURATIONS, wanted)
        self._metrics.webhook_updates.inc()
        log.info(Event.WEBHOOK_PATCHED, name=name, binding=binding)

    async def _until_reached(self) -> None:
        """Ask the API server, without storing anything, for what we always refuse."""
        body = {
            "apiVersion": PEER_AUTHENTICATIONS.api_version,
            "kind": PEER_AUTHENTICATIONS.kind,
            "metadata": {
                "name": "webhook-probe",
                "namespace": self._namespace,
                "annotations": {ALWAYS_REJECT: "true"},
            },
            "spec": {},
        }
        path = PEER_AUTHENTICATIONS.path(self._namespace) + "?dryRun=All"
        while self._found:
            try:
                await self._kube.request("POST", path, body)
            except NotFound:
                pass  # the kind is not installed yet
            except KubeError as error:
                if ALWAYS_REJECT in error.message:
                    return
                raise
            with trio.move_on_after(PROBE_WAIT_S):
                await self._wake.wait()


def configured(found: dict[str, Any], roots_pem: str, *, binding: bool) -> dict[str, Any]:
    """The configuration with our roots; webhooks of others in it stay as they are."""
    bundle = base64.b64encode(roots_pem.encode()).decode()
    webhooks = []
    for one in found.get("webhooks") or ():
        if not str(one.get("name", "")).endswith(WEBHOOK_SUFFIX):
            webhooks.append(one)
            continue
        changed = {**one, "clientConfig": {**(one.get("clientConfig") or {}), "caBundle": bundle}}
        if binding:
            changed["failurePolicy"] = "Fail"
        webhooks.append(changed)
    return {**found, "webhooks": webhooks}


def _is_binding(found: dict[str, Any]) -> bool:
    ours = [
        one
        for one in found.get("webhooks") or ()
        if str(one.get("name", "")).endswith(WEBHOOK_SUFFIX)
    ]
    return all(one.get("failurePolicy") == "Fail" for one in ours)


async def _ready(_: Request) -> Response:
    return Response(200, "ready\n")


def _plural(kind: str) -> str:
    word = kind.lower()
    return f"{word[:-1]}ies" if word.endswith(("cy", "ry")) else f"{word}s"


_KNOWN: Final = frozenset((group, _plural(kind)) for group, kind in KINDS)
_VERSIONS: Final = ("v1", "v1beta1", "v1alpha3", "v1alpha2")


def _labels(asked: admission.Resource) -> tuple[str, str, str]:
    """A metric's labels; whoever reaches the port must not make up new ones without end."""
    if (asked.group, asked.resource) not in _KNOWN or asked.version not in _VERSIONS:
        return "other", "other", "other"
    return asked.group, asked.version, asked.resource
