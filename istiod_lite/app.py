"""The composition root: API server in, index, xDS and certificates out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.http import listen, serve_http
from ambient.telemetry.io.logs import get_logger
from ambient.telemetry.io.metrics_http import serve_metrics
from istiod_lite.core.certificates import Lifetimes
from istiod_lite.core.changes import Changes
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.federation import Federation
from istiod_lite.core.index import Index
from istiod_lite.core.issue import Caller
from istiod_lite.core.mesh_page import Certificate
from istiod_lite.core.snapshot import Publisher
from istiod_lite.core.waypoint_objects import WaypointPlan
from istiod_lite.core.waypoint_parameters import Parameters
from istiod_lite.io.address_allocator import AddressAllocator
from istiod_lite.io.authenticator import Authenticator
from istiod_lite.io.bridge import Bridge
from istiod_lite.io.ca_server import CaRules, CaService, is_encrypted
from istiod_lite.io.ca_source import Source, open_source
from istiod_lite.io.credential_watch import CredentialWatch
from istiod_lite.io.dashboard import Dashboard
from istiod_lite.io.debounce import Debounce
from istiod_lite.io.grpc_server import GrpcServer
from istiod_lite.io.issuer import Issuer
from istiod_lite.io.leader import Leader
from istiod_lite.io.metrics import Metrics
from istiod_lite.io.remote_clusters import Debouncing, RemoteClusters
from istiod_lite.io.root_certs import CRL, ROOTS, Distribution
from istiod_lite.io.serving import ServingCertificate
from istiod_lite.io.status_pages import StatusPages
from istiod_lite.io.status_writer import StatusWriter
from istiod_lite.io.trusted_accounts import TrustedAccounts
from istiod_lite.io.watches import Watches
from istiod_lite.io.waypoint_controller import WaypointController
from istiod_lite.io.webhook import Webhook, WebhookConfiguration
from istiod_lite.io.xds_clients import Clients
from istiod_lite.io.xds_server import XdsRules, XdsService
from istiod_lite.settings import Settings

CERTIFICATES: Final = "certificate authority"
LISTENERS: Final = "xDS listeners"
STOPPING: Final = "the end of this replica"
CLIENT_CHECK_S: Final = 5.0

log = get_logger("istiod")


async def run(
    settings: Settings,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[ControlPlane] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stopping`` is set; started once proxies are served."""
    async with KubeClient.connect() as kube:
        plane = ControlPlane(settings, kube)
        async with trio.open_nursery() as nursery:
            await nursery.start(plane.run)
            task_status.started(plane)
            await stopping.wait()
            nursery.cancel_scope.cancel()


class ControlPlane:
    """One replica. ``ports`` are those that were bound, by name of the setting."""

    def __init__(self, settings: Settings, kube: KubeClient) -> None:
        self._settings = settings
        self._kube = kube
        self.metrics = self._metrics = Metrics()
        self._publisher = Publisher()
        self._pending = [CERTIFICATES, LISTENERS]
        self.ports: dict[str, int] = {}
        self.index = Index(_facts(settings))
        debouncing = Debouncing(settings.pilot_debounce_after_s, settings.pilot_debounce_max_s)
        self._federation = Federation(self.index)
        self._remotes = RemoteClusters(
            kube,
            self._federation,
            self.index.facts,
            self._announce,
            self._metrics,
            debouncing,
        )
        debounce = Debounce(*debouncing)
        names = (settings.revision,)
        self._watches = Watches(kube, self.index, self._publish, debounce, names=names)
        self._credentials = CredentialWatch(kube, self.index, debounce.note)
        self._watches.noted = self._metrics.note_update
        self._metrics.stale.set_function(self._watches.contact.stale_s)
        self._bridge = Bridge()
        self._authenticator = Authenticator(kube, settings.token_audiences, settings.cluster_id)
        self._pages = StatusPages(settings, self.index, self._federation, self._missing)
        rules = XdsRules(
            identify=self._identify,
            debug=lambda name: self._bridge.call(self._pages.page, name),
            cluster_id=settings.cluster_id,
            system_namespace=settings.pod_namespace,
            replica=settings.pod_name,
        )
        clients = Clients(
            self._metrics,
            most=settings.max_streams,
            most_per_client=settings.max_streams_per_client,
        )
        self._xds = XdsService(rules, clients, self._metrics)
        self._waypoints = WaypointController(
            kube, self.index, self._plan(), lambda: self._watches.names
        )
        self._statuses = StatusWriter(kube, self.index)
        self._addresses = AddressAllocator(kube, self.index)
        self._trusted = TrustedAccounts(
            kube, settings.pod_namespace, settings.ca_trusted_node_accounts
        )
        self._published: tuple[Distribution, ...] = ()
        self._source: Source | None = None
        self._webhooks: WebhookConfiguration | None = None
        self._pages.stale_s = self._watches.contact.stale_s
        self._pages.xds = self._xds
        self._pages.remotes = self._remotes.page
        self._pages.authenticator = self._authenticator
        self._dashboard = Dashboard(settings, kube, self.index)
        self._dashboard.streams = lambda: self._xds.streams
        self._dashboard.stale_s = self._watches.contact.stale_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. The ports for proxies open only when the index is complete, so that
        no client ever sees a part of the mesh and takes the rest for gone.
        """
        settings, begun = self._settings, time.monotonic()
        async with trio.open_nursery() as nursery:
            await self._open_pages(nursery)
            issuer = await self._prepare(nursery)
            self._dashboard.certificates = lambda: (
                Certificate("root certificate", issuer.authority.root_ends),
                Certificate("signing certificate", issuer.authority.ends),
            )
            serving = ServingCertificate(issuer, settings.serving_names)
            await self._open_webhook(nursery, issuer, serving)
            server = GrpcServer(
                settings,
                self._xds,
                CaService(
                    self._bridge,
                    self._authenticator,
                    issuer,
                    self.index.inputs,
                    self._ca_rules(),
                    self._metrics,
                ),
                serving,
            )
            self.ports |= dict(zip(("xds_port", "xds_plaintext_port"), server.ports, strict=True))
            server.start()
            self._pending.remove(LISTENERS)
            self._metrics.startup.set(time.monotonic() - begun)
            nursery.start_soon(self._look_after_clients)
            leader = Leader(
                self._kube,
                settings.pod_namespace,
                settings.pod_name,
                settings.lease_s,
                settings.lease_name,
            )
            nursery.start_soon(leader.run, self._write)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(settings.lease_s / 3, shield=True):
                    # Whoever balances over replicas sends nobody here from now on.
                    self._pending.append(STOPPING)
                    self._xds.finish()
                    await trio.to_thread.run_sync(server.stop)
                    await leader.release()

    async def _open_pages(self, nursery: trio.Nursery) -> None:
        """Readiness, status, the web page, and metrics."""
        settings = self._settings
        listeners = await _or_explain(
            lambda: listen(settings.bind_address, settings.http_port),
            "HTTP_PORT",
            settings.http_port,
        )
        self.ports["http_port"] = listeners[0].socket.getsockname()[1]
        routes = self._pages.routes()
        for path, handler in self._dashboard.routes().items():
            routes.add(path, handler)
        nursery.start_soon(serve_http, listeners, routes)
        nursery.start_soon(self._dashboard.traffic.run)
        self.ports["monitoring_port"] = await _or_explain(
            lambda: nursery.start(
                serve_metrics,
                settings.bind_address,
                settings.monitoring_port,
                self._metrics.registry,
                self._pages.debug_routes(),
            ),
            "MONITORING_PORT",
            settings.monitoring_port,
        )

    async def _open_webhook(
        self, nursery: trio.Nursery, issuer: Issuer, serving: ServingCertificate
    ) -> None:
        settings = self._settings
        webhook = Webhook(serving, self._metrics)
        issuer.changed.append(webhook.refresh)
        self.ports["https_port"] = await _or_explain(
            lambda: nursery.start(webhook.run, settings.bind_address, settings.https_port),
            "HTTPS_PORT",
            settings.https_port,
        )
        self._webhooks = WebhookConfiguration(
            self._kube, issuer, self._metrics, settings.pod_namespace, settings.revision
        )
        issuer.changed.append(self._webhooks.look)

    async def _look_after_clients(self) -> None:
        while True:
            await trio.sleep(CLIENT_CHECK_S)
            self._xds.clients.look()

    async def _prepare(self, nursery: trio.Nursery) -> Issuer:
        """Fill the index and get the authority, both at once."""
        listed = trio.Event()

        async def list_all() -> None:
            await nursery.start(self._watches.run)
            listed.set()

        nursery.start_soon(list_all)
        await nursery.start(self._remotes.run)
        nursery.start_soon(self._trusted.run)
        nursery.start_soon(self._credentials.run)
        self._source, authority = await open_source(self._kube, self._settings)
        issuer = Issuer(authority, self._metrics)
        self._published = (
            Distribution(self._kube, self.index, ROOTS, lambda: issuer.roots_pem),
            Distribution(self._kube, self.index, CRL, lambda: issuer.crl_pem),
        )
        issuer.changed += [one.look_at_all for one in self._published]
        nursery.start_soon(self._source.follow, issuer)
        self._pending.remove(CERTIFICATES)
        await listed.wait()
        await self._remotes.until_settled(self._settings.pilot_remote_cluster_timeout_s)
        return issuer

    async def _write(self) -> None:
        """What only the leader does."""
        assert self._source is not None
        assert self._webhooks is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._source.lead)
            nursery.start_soon(self._webhooks.run)
            for one in self._published:
                nursery.start_soon(one.run)
            nursery.start_soon(self._waypoints.run)
            if self._settings.ambient_enable_status:
                nursery.start_soon(self._statuses.run)
            if self._settings.pilot_enable_ip_autoallocate:
                nursery.start_soon(self._addresses.run)

    def _publish(self, changes: Changes, first: float) -> None:
        """Changes of the index: to proxies, controllers, metrics and the log."""
        begun = time.monotonic()
        changes = self._federation.absorb(changes)
        delta = self._publisher.advance(self._federation, changes)
        self._xds.publish(self._publisher.snapshot, delta, first)
        self._waypoints.look_at(changes.gateways)
        self._statuses.look_at(changes.statuses)
        self._credentials.look_at(self.index.wanted_credentials)
        self._addresses.look_at(changes.entries)
        for one in self._published:
            one.look_at(changes.namespaces)
        for remark in changes.remarks:
            log.warning(
                Event.OBJECT_REMARK,
                kind=remark.kind,
                object=str(remark.key),
                text=remark.text,
                hint=remark.hint,
            )
        metrics = self._metrics
        metrics.note_push(changes.addresses, "ambient")
        metrics.note_push(changes.authorizations | changes.configs, "config")
        metrics.services.set(len(self.index.services))
        metrics.virtual_services.set(
            sum(name.startswith("VirtualService/") for name in self.index.inputs.configs)
        )
        metrics.workloads.set(len(self.index.workloads))
        metrics.policies.set(len(self.index.authorizations))
        metrics.rejected_configs.set(len(self.index.remarks()))
        metrics.index_seconds.observe(time.monotonic() - begun)
        metrics.debounce.observe(time.monotonic() - first)
        log.debug(
            Event.INDEX_PUSHED,
            addresses=len(changes.addresses),
            authorizations=len(changes.authorizations),
            configs=len(changes.configs),
        )

    def _announce(self, changes: Changes, first: float) -> None:
        """Changes by another cluster: to proxies."""
        delta = self._publisher.advance(self._federation, changes)
        self._xds.publish(self._publisher.snapshot, delta, first)
        self._metrics.note_push(changes.addresses, "ambient")

    def _identify(self, context: Any) -> Caller | None:
        """The caller of an xDS stream, on gRPC's thread; nobody in particular in plain text."""
        if not is_encrypted(context):
            return None
        return self._bridge.call(self._authenticator.caller, context.invocation_metadata())

    @property
    def xds(self) -> XdsService:
        """What serves proxies."""
        return self._xds

    def stale_s(self) -> float:
        """How long the API server has been away; 0 while it answers."""
        return self._watches.contact.stale_s()

    def _ca_rules(self) -> CaRules:
        settings = self._settings
        lifetimes = Lifetimes(
            timedelta(seconds=settings.default_workload_cert_ttl_s),
            timedelta(seconds=settings.max_workload_cert_ttl_s),
        )
        return CaRules(settings.trust_domain, lambda: self._trusted.current, lifetimes)

    def _missing(self) -> list[str]:
        return [*self._pending, *self._watches.missing]

    def _plan(self) -> WaypointPlan:
        settings = self._settings
        return WaypointPlan(
            facts=self.index.facts,
            image=settings.waypoint_image,
            pull_secrets=settings.waypoint_image_pull_secrets,
            command=settings.waypoint_command,
            discovery_address=settings.discovery_address,
            revision=settings.revision,
            parameters=Parameters(
                replicas=settings.waypoint_replicas, max_replicas=settings.waypoint_max_replicas
            ),
        )


def _facts(settings: Settings) -> MeshFacts:
    return MeshFacts(
        cluster_id=settings.cluster_id,
        trust_domain=settings.trust_domain,
        root_namespace=settings.pod_namespace,
        cluster_domain=settings.cluster_domain,
        network=settings.network,
        waypoint_fail_closed=settings.waypoint_fail_closed,
        allow_waypoints=settings.pilot_auto_allow_waypoint_policy,
        ingress_use_waypoint=settings.ingress_use_waypoint,
        send_dry_run=settings.ambient_enable_dry_run_authorization_policy,
        service_entries_select_pods=settings.pilot_enable_serviceentry_select_pods,
        services_select_workload_entries=(settings.pilot_enable_k8s_select_workload_entries),
        allocate_addresses=settings.pilot_enable_ip_autoallocate,
    )


async def _or_explain(bind: Callable[[], Awaitable[Any]], setting: str, port: int) -> Any:
    """Bind a port, or say which one could not be bound."""
    try:
        return await bind()
    except OSError as error:
        raise MeshError(
            f"cannot listen on port {port}: {error.strerror}",
            hint=f"another process has the port; set {setting}",
        ) from error
