"""Puts the waypoint together; the one file that knows all parts, and in which order they start.

The HBONE port is bound last: before the first answer of the control plane and the certificate,
nobody could be served, and a client that is refused goes to another replica.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final, NamedTuple

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from ambient.api.address import IPAddress, NetworkAddress, parse_ip
from ambient.api.config import ConfigObject
from ambient.api.errors import MeshError, SettingsError
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE, CONFIG_TYPE, SECRET_TYPE
from ambient.cli.memory import keep_small
from ambient.cli.worker_http import PassedEndpoint
from ambient.hbone.io.pool import Pool
from ambient.hbone.io.relay import Relay
from ambient.identity.io.ca_client import CaClient
from ambient.identity.io.cert_store import CertStore
from ambient.identity.io.grpc_server import GrpcServer
from ambient.state.core.mesh import MeshState
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io.http import Handler, Request, Response, Routes, listen, serve_http
from ambient.telemetry.io.logs import bind_everywhere, get_logger, hold_lines
from ambient.telemetry.io.metrics_http import metrics_handler
from ambient.xds.core.wire import BadResource
from ambient.xds.io.session import NodeInfo, Update, XdsSession
from waypoint.core.dispatch import Self
from waypoint.core.message_limits import set_limits
from waypoint.io.admin import Held, admin_routes
from waypoint.io.cluster_metrics import ClusterMetrics
from waypoint.io.dialler import Dialler
from waypoint.io.key_store import KeySettings
from waypoint.io.listener import Listener, bind
from waypoint.io.service import Service
from waypoint.io.shared_clusters import SharedClusters
from waypoint.io.upstream import Upstreams
from waypoint.settings import Settings

CONTROL_PLANE: Final = "control plane"
CERTIFICATE: Final = "certificate"
HBONE: Final = "hbone"
FIRST_RETRY_S: Final = 0.2
LONGEST_RETRY_S: Final = 15.0
GOODBYE_S: Final = 1.0
GC_THRESHOLDS: Final = (20_000, 20, 50)
"""A request leaves some dozens of objects, hardly any in cycles: looking for those every 700 costs
more than it finds."""

log = get_logger("waypoint")


class WorkerChannel(NamedTuple):
    """What a worker is started with: its number, and the descriptors of the token buckets
    (``waypoint/io/shared_slots.py``) and clusters (``shared_clusters.py``) that all share, and of
    its HTTP endpoint's socket (``ambient/cli/worker_http.py``)."""

    number: int
    buckets_fd: int
    clusters_fd: int
    http_fd: int


async def run(settings: Settings, stopping: trio.Event) -> None:
    """Serve until ``stopping``, then drain. Raises MeshError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # every connection is a descriptor
    await Waypoint(settings, stopping).run()


async def run_worker(channel: WorkerChannel, settings: Settings, stopping: trio.Event) -> None:
    """As ``run``, as one of several (``waypoint/supervisor.py``)."""
    bind_everywhere(worker=channel.number)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    await Waypoint(settings, stopping, channel).run()


def check(settings: Settings) -> IPAddress:
    """Our own address. Raises SettingsError where it is none."""
    ip = parse_ip(settings.instance_ip)
    if ip is None:
        raise SettingsError(
            f"INSTANCE_IP={settings.instance_ip!r} is not an IP address",
            hint="set INSTANCE_IP to the pod's address (status.podIP)",
        )
    return ip


class Waypoint:
    """Every part of the process."""

    def __init__(
        self, settings: Settings, stopping: trio.Event, channel: WorkerChannel | None = None
    ) -> None:
        ip = check(settings)
        set_limits(
            headers_kb=settings.max_request_headers_kb,
            headers_count=settings.max_headers_count,
            buffer_bytes=settings.per_connection_buffer_limit_bytes,
        )
        self._channel = channel
        self._settings = settings
        self._stopping = stopping
        self._state = MeshState()
        self._relay = Relay()
        self._ca = CaClient(_ca_server(settings))
        self._certs = CertStore(self._ca, impersonate=False, ttl_s=round(settings.secret_ttl_s))
        self._pool = Pool(self._relay)
        dialler = Dialler(self._pool, self._certs, settings.identity, settings.connect_timeout_s)
        self._credentials = dialler.credentials
        self._upstreams = Upstreams(dialler)
        own = Self(settings.place, frozenset({NetworkAddress(settings.network, ip)}))
        jwks = KeySettings(settings.jwks_refresh_s, settings.jwks_extra_root_ca)
        self.service = Service(
            own, self._state, self._upstreams, network=settings.network, jwks=jwks
        )
        if channel is not None:
            self.service.limiter.share(channel.buckets_fd)
            shared = SharedClusters(channel.clusters_fd, channel.number)
            self.service.clusters.share(shared.join)
        if settings.xfcc_include_client_identity:
            self.service.told_by = settings.identity
        self._listener = Listener(
            self.service, self._relay, self._certs, settings.identity, settings.sniff_timeout_s
        )
        self._readiness = Readiness([CONTROL_PLANE, CERTIFICATE, HBONE])
        self._registry = CollectorRegistry()
        self._registry.register(self.service.reports.metrics)
        self._registry.register(self.service.reports.sent_logs)
        self._registry.register(ClusterMetrics(self.service.clusters))
        ProcessCollector(registry=self._registry)
        self._session = XdsSession(
            _xds_server(settings),
            _node_info(settings),
            (ADDRESS_TYPE, AUTHORIZATION_TYPE, SECRET_TYPE, CONFIG_TYPE),
            self._apply,
        )
        self._registry.register(self._session.stats)

    async def run(self) -> None:
        """Start everything in order; end it in the reverse one.

        After the signal it goes on serving while clients learn that it leaves, takes no new
        streams on old tunnels, and ends with the last request or at the deadline.
        """
        settings = self._settings
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._relay.run)
                hold_lines(self._relay.flush_later)
                nursery.start_soon(self._certs.run)
                nursery.start_soon(self.service.run)
                await self._serve_endpoints(nursery)
                nursery.start_soon(self._session.run)
                async with trio.open_nursery() as tunnels:
                    async with trio.open_nursery() as accepting:
                        accepting.start_soon(self._work, tunnels)
                        await self._stopping.wait()
                        self._begin_drain(len(tunnels.child_tasks))
                        await trio.sleep(settings.min_drain_s)
                        accepting.cancel_scope.cancel()
                    left_s = max(0.0, settings.drain_s - settings.min_drain_s)
                    tunnels.cancel_scope.deadline = trio.current_time() + left_s
                with trio.move_on_after(GOODBYE_S):
                    await self.service.reports.flush()
                self._upstreams.close()
                await self._leave_endpoints()
                nursery.cancel_scope.cancel()
        finally:
            hold_lines(None)
            self._ca.close()

    async def _work(self, connections: trio.Nursery) -> None:
        """Wait for what is needed, then accept tunnels."""
        await self._session.synced.wait()
        self._readiness.done(CONTROL_PLANE)
        await self._first_certificate()
        self._readiness.done(CERTIFICATE)
        sock = bind("", self._settings.hbone_port, share=self._channel is not None)
        log.info(Event.WAYPOINT_LISTENING, port=sock.getsockname()[1])
        self._readiness.done(HBONE)
        gc.set_threshold(*GC_THRESHOLDS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_small)
            await self._listener.run(sock, connections)

    async def _first_certificate(self) -> None:
        """The store retries on its own; a failure here only means to ask again."""
        delay_s = FIRST_RETRY_S
        while True:
            try:
                await self._certs.svid(self._settings.identity)
            except MeshError as error:
                log.warning(Event.CERT_FAILED, identity=self._settings.identity, error=str(error))
                await trio.sleep(delay_s)
                delay_s = min(2 * delay_s, LONGEST_RETRY_S)
            else:
                return

    def _begin_drain(self, tunnels: int) -> None:
        """Not ready any more, GOAWAY to every client, and idle connections end."""
        log.info(Event.DRAIN_STARTED, connections=tunnels, deadline_s=self._settings.drain_s)
        self._readiness.wait_for(HBONE)
        self.service.drain()
        self._listener.draining.begin()

    async def _leave_endpoints(self) -> None:
        """End the tunnels to endpoints in order, so that nobody has to report a lost connection."""
        self._pool.release()
        with trio.move_on_after(GOODBYE_S):
            while self._pool.connections:  # noqa: ASYNC110 - the pool has no event; this ends soon
                await trio.sleep(0.01)
        self._pool.close()

    async def _serve_endpoints(self, nursery: trio.Nursery) -> None:
        settings = self._settings
        ready = Routes()
        ready.add("/healthz/ready", self._answer_ready)
        stats = Routes()
        for path in ("/metrics", "/stats/prometheus"):
            stats.add(path, metrics_handler(self._registry))
        held = Held(self._state, self._certs, self._credentials)
        admin = admin_routes(self.service, held, settings)
        admin.add("/ready", self._answer_ready)
        admin.add("/healthz/ready", self._answer_ready)
        admin.include(stats)
        if self._channel is not None:
            endpoint = PassedEndpoint(
                self._channel.http_fd, (ready, stats, admin), self._stopping.set
            )
            await nursery.start(endpoint.run, False)
            return
        await serve_port(nursery, "", settings.readiness_port, ready)
        await serve_port(nursery, "", settings.stats_port, stats)
        await serve_port(nursery, "localhost", settings.admin_port, admin)

    async def _answer_ready(self, _: Request) -> Response:
        return Response(*self._readiness.answer())

    def _apply(self, update: Update) -> Iterable[BadResource]:
        """Take over an update; a program is compiled first and then replaces the old one."""
        if update.type_url == CONFIG_TYPE:
            objects = [v for v in update.changed.values() if isinstance(v, ConfigObject)]
            self.service.replace_program(self.service.program.changed(objects, update.removed))
        elif update.type_url == SECRET_TYPE:
            return self._credentials.apply(update.changed, update.removed)
        else:
            self._state.apply(update.type_url, update.changed, update.removed)
        return ()


async def serve_port(nursery: trio.Nursery, host: str, port: int, handler: Handler) -> None:
    """Answer on a port as long as ``nursery`` lives. Raises MeshError."""
    try:
        listeners = await listen(host, port)
    except OSError as error:
        raise MeshError(
            f"cannot listen on port {port}: {error.strerror or error}",
            hint="ADMIN_PORT, STATS_PORT and READINESS_PORT choose other ports",
        ) from None
    nursery.start_soon(serve_http, listeners, handler)


def _xds_server(settings: Settings) -> GrpcServer:
    return GrpcServer.at(
        settings.xds_address,
        root_ca_file=settings.xds_root_ca,
        token_file=settings.auth_token,
        cluster_id=settings.cluster_id,
        alt_hostname=settings.alt_xds_hostname,
    )


def _ca_server(settings: Settings) -> GrpcServer:
    return GrpcServer.at(
        settings.ca_address,
        root_ca_file=settings.ca_root_ca or settings.xds_root_ca,
        token_file=settings.auth_token,
        cluster_id=settings.cluster_id,
        alt_hostname=settings.alt_ca_hostname,
    )


def _node_info(settings: Settings) -> NodeInfo:
    return NodeInfo(
        kind="waypoint",
        ip=settings.instance_ip,
        name=settings.pod_name,
        namespace=settings.pod_namespace,
        node_name=settings.node_name,
        metadata={
            "CLUSTER_ID": settings.cluster_id,
            "SERVICE_ACCOUNT": settings.service_account,
            "GATEWAY_NAME": settings.place.gateway,
            "ISTIO_VERSION": version("ambient-mesh"),
        },
    )
