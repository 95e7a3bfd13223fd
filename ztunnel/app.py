"""Puts the node tunnel together; the one file that knows all parts, and in which order they start.

Readiness and metrics answer first, so that a tunnel that waits can say what for. The node agent is
contacted only when the control plane has answered: a pod whose policies are unknown is not served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from ambient.api.type_urls import AUTHORIZATION_TYPE
from ambient.cli.memory import keep_small
from ambient.cli.worker_http import PassedEndpoint
from ambient.hbone.io.relay import Relay
from ambient.identity.io.file_watch import follow_file
from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.state.core.mesh import MeshState
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io.http import Request, Response, Routes
from ambient.telemetry.io.logs import bind_everywhere, get_logger, hold_lines, levels
from ambient.telemetry.io.metrics_http import TrafficMetrics, metrics_handler
from ambient.xds.core.wire import BadResource
from ambient.xds.io.session import Update
from ztunnel.core.outbound_policy import OutboundPolicyError
from ztunnel.core.outbound_policy import read as registry_only_of
from ztunnel.io.admin import admin_routes
from ztunnel.io.channels import Channels
from ztunnel.io.connections import Connections
from ztunnel.io.control_plane import ControlPlane
from ztunnel.io.dedicated import serve_workload
from ztunnel.io.endpoints import Endpoint
from ztunnel.io.mesh_view import MeshView
from ztunnel.io.node import IdentityUse, Node
from ztunnel.io.own_pod import OwnPod, own_pod
from ztunnel.io.pod import Pod
from ztunnel.io.pods import Pods, PodStartError
from ztunnel.io.process import ProxyCounts, check_privileges, raise_descriptor_limit
from ztunnel.io.zds import follow_agent, follow_supervisor
from ztunnel.settings import Settings

STATE_MANAGER: Final = "state manager"
PROXY: Final = "proxy"

log = get_logger("app")


async def run(settings: Settings, stopping: trio.Event) -> None:
    """Serve this node's pods until ``stopping``, then drain. Raises MeshError."""
    raise_descriptor_limit()
    if not settings.dedicated:
        check_privileges(settings.mark)
    await _Tunnel(settings, stopping).run()


async def run_worker(channels: Channels, settings: Settings, stopping: trio.Event) -> None:
    """As ``run``, for the pods that the supervisor gives us (``ztunnel/supervisor.py``)."""
    bind_everywhere(worker=channels.number)
    raise_descriptor_limit()
    await _Tunnel(settings, stopping, channels).run()


class _Tunnel:
    """Every part of the process."""

    def __init__(
        self, settings: Settings, stopping: trio.Event, supervisor: Channels | None = None
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._stopping = stopping
        self._view = MeshView(
            MeshState(), settings.network, settings.node_name, settings.cluster_id
        )
        self._metrics = TrafficMetrics()
        self._control = ControlPlane(settings, self._apply)
        certs = self._control.certs
        self._node = Node(
            settings=settings,
            view=self._view,
            certs=certs,
            identities=IdentityUse(certs),
            relay=Relay(),
            connections=Connections(self._view, self._metrics),
            metrics=self._metrics,
            demand=self._control.demand if settings.xds_on_demand else None,
        )
        self._readiness = Readiness([STATE_MANAGER, PROXY])
        self._pods = Pods(self._make_pod, self._readiness, settings.drain_s)
        self._registry = CollectorRegistry()
        of_node = (self._metrics, self._node.dns_metrics, self._node.name_metrics)
        for collector in (*of_node, ProxyCounts(self._pods)):
            self._registry.register(collector)
        if self._control.revocation is not None:
            self._registry.register(self._control.revocation)
        ProcessCollector(registry=self._registry)
        self._endpoints = list(self._make_endpoints())

    async def run(self) -> None:
        """Start everything in order; end it in the reverse one."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._control.run)
                await nursery.start(follow_file, self._settings.mesh_config, self._take_mesh_config)
                await nursery.start(self._node.relay.run)
                hold_lines(self._node.relay.flush_later)
                await nursery.start(self._pods.run)
                for endpoint in self._endpoints:
                    await nursery.start(endpoint.run, self._settings.inpod_port_reuse)
                await self._sync(nursery)
                own = await self._serve_ourselves(nursery)
                with trio.CancelScope() as talking:
                    async with trio.open_nursery() as agent:
                        agent.start_soon(self._serve_pods)
                        self._readiness.done(PROXY)
                        await self._stopping.wait()
                        talking.cancel()
                if own is not None:
                    own.stop(self._settings.drain_s)
                await self._drain()
                nursery.cancel_scope.cancel()
        finally:
            hold_lines(None)
        self._control.close()

    async def _serve_pods(self) -> None:
        """Do what the agent says, or the supervisor, without whom a worker does not go on."""
        if self._settings.dedicated:
            await serve_workload(self._settings, self._pods)
        elif self._supervisor is None:
            await follow_agent(self._settings.inpod_uds, self._pods)
        else:
            await follow_supervisor(self._supervisor.zds_fd, self._pods)
            self._stopping.set()

    async def _serve_ourselves(self, nursery: trio.Nursery) -> OwnPod | None:
        """Our own pod in the mesh, where we know whose it is; several workers leave it out."""
        settings = self._settings
        if settings.dedicated or self._supervisor is not None or not settings.service_account:
            return None
        own = own_pod(self._node)
        try:
            await nursery.start(own.run)
        except PodStartError as error:
            log.warning(Event.POD_FAILED, pod=own.name, error=str(error))
            return None
        return own

    def _make_endpoints(self) -> Iterator[Endpoint | PassedEndpoint]:
        settings = self._settings
        ready = Routes()
        ready.add("/healthz/ready", self._answer_ready, methods=("GET",))
        stats = Routes()
        for path in ("/metrics", "/stats/prometheus"):
            stats.add(path, metrics_handler(self._registry), methods=())
        admin = admin_routes(self._node, self._pods, self._stopping, str(levels))
        if self._supervisor is not None:
            yield PassedEndpoint(self._supervisor.http_fd, (ready, stats, admin))
            return
        yield Endpoint("", settings.readiness_port, ready)
        yield Endpoint("", settings.stats_port, stats)
        yield Endpoint("localhost", settings.admin_port, admin)

    async def _answer_ready(self, _: Request) -> Response:
        return Response(*self._readiness.answer())

    async def _sync(self, nursery: trio.Nursery) -> None:
        """Wait for the first answer to everything that we asked the control plane for."""
        session = self._control.session
        if session is not None:
            self._registry.register(session.stats)
            nursery.start_soon(session.run)
            async with trio.open_nursery() as either:
                either.start_soon(_cancel_after, session.synced, either.cancel_scope)
                either.start_soon(_cancel_after, self._stopping, either.cancel_scope)
        nursery.start_soon(keep_small)
        self._readiness.done(STATE_MANAGER)

    def _take_mesh_config(self, content: bytes | OSError) -> None:
        """A file that is not there (any more) says nothing; a bad one leaves what holds."""
        state = self._view.state
        try:
            wanted = False if isinstance(content, OSError) else registry_only_of(content)
        except OutboundPolicyError as error:
            log.error(Event.MESH_CONFIG_REFUSED, error=str(error), hint=error.hint)
            return
        if wanted != state.registry_only:
            state.registry_only = wanted
            mode = "REGISTRY_ONLY" if wanted else "ALLOW_ANY"
            log.info(Event.OUTBOUND_POLICY, mode=mode, path=self._settings.mesh_config)

    def _apply(self, update: Update) -> Iterable[BadResource]:
        changed = self._view.state.apply(update.type_url, update.changed, update.removed)
        if changed:
            self._view.notify()
            policies = update.type_url == AUTHORIZATION_TYPE
            self._node.connections.judge_again(None if policies else changed)
        return ()

    async def _drain(self) -> None:
        log.info(
            Event.DRAIN_STARTED,
            connections=len(self._node.connections.live),
            deadline_s=self._settings.drain_s,
        )
        self._readiness.wait_for(PROXY)
        for endpoint in self._endpoints:
            endpoint.give_way()
        self._pods.drain()
        await self._pods.finished()

    def _make_pod(self, info: Add, netns: Netns) -> Pod:
        return Pod(self._node, info, netns)


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
