"""The node agent put together: watches in, rules, ZDS and annotations out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.api.errors import MeshError
from ambient.kube.core.objects import Namespace, ObjectError, Pod, decode
from ambient.kube.core.resources import NAMESPACES, PODS, KubeObject
from ambient.kube.core.watch import EventKind, WatchEvent
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.build import describe_process
from ambient.telemetry.io.http import Handler, Request, Response, Routes, listen, serve_http
from ambient.telemetry.io.logs import get_logger
from ambient.telemetry.io.metrics_http import serve_metrics
from cni_plugin.core.backend import Backend
from cni_plugin.core.reconcile import Phase
from cni_plugin.io import event_server, own_daemon_set
from cni_plugin.io.agent import Agent
from cni_plugin.io.agent_client import EVENT_SOCKET
from cni_plugin.io.guests import Guests
from cni_plugin.io.installer import Installer
from cni_plugin.io.node_socket_map import NodeSocketMap
from cni_plugin.io.units import Units
from cni_plugin.io.zds_server import ZdsServer
from cni_plugin.settings import Settings

_EVENT_TYPES: Final = {
    EventKind.ADDED: "add",
    EventKind.MODIFIED: "update",
    EventKind.DELETED: "delete",
}
"""Label values of ``nodeagent_reconcile_events_total``, which are Istio's."""

log = get_logger("agent")


async def run(settings: Settings, stopping: trio.Event) -> None:
    """Serve the node until ``stopping``. Raises MeshError where it cannot begin."""
    installer = Installer(settings)
    async with KubeClient.connect(settings.kubeconfig) as kube:
        zds = ZdsServer(settings.ztunnel_uds_address)
        agent = Agent(settings, kube, zds)
        units = Units(settings, zds)
        guests = Guests(settings, kube, agent, units)
        agent.enrolment.annotate_guest = guests.annotate
        guests.load()
        joined = NodeSocketMap(settings)
        state = _State(agent, zds, installer, joined)
        managed = await own_daemon_set.look(settings, kube)
        try:
            # The order matters: what the pods are comes before ztunnels hear of them, ztunnels
            # before plugins, and the plugin is installed when there is somebody to answer it.
            async with trio.open_nursery() as nursery:
                await nursery.start(_serve_health, settings, state)
                await nursery.start(_serve_metrics, settings, state)
                await nursery.start(_watch_namespaces, kube, agent)
                await nursery.start(_watch_pods, kube, agent, settings.node_name, state.pod_events)
                await agent.start(nursery)
                await nursery.start(zds.run)
                socket_path = f"{settings.cni_agent_run_dir}/{EVENT_SOCKET}"
                serving = (socket_path, agent.cni_added, guests, state.plugin_answers)
                await nursery.start(event_server.serve, *serving)
                state.watching = True
                nursery.start_soon(installer.run)
                nursery.start_soon(guests.watch)
                nursery.start_soon(units.run)
                nursery.start_soon(joined.run, agent.entries)
                await stopping.wait()
                nursery.cancel_scope.cancel()
            await own_daemon_set.leave(settings, kube, managed.answer)
        finally:
            agent.close()
            units.close()
            joined.close()


class _State(Collector):
    """What health and metrics report."""

    def __init__(
        self, agent: Agent, zds: ZdsServer, installer: Installer, joined: NodeSocketMap
    ) -> None:
        self._joined = joined
        self._agent = agent
        self.plugin_answers: Final = Counter[int]()
        self.pod_events: Final = dict.fromkeys(_EVENT_TYPES.values(), 0)
        self._zds = zds
        self._installer = installer
        self.watching = False

    def _phases(self) -> Counter[Phase]:
        return Counter(entry.phase for entry in self._agent.entries())

    @property
    def installed(self) -> bool:
        """Whether the runtime calls the plugin."""
        return self._installer.installed

    def summary(self) -> dict[str, object]:
        """The node in one object, for ``/status``."""
        counts, by_backend = self._phases(), Counter(self._agent.backends())
        return {
            "backend": self._agent.backend,
            "socket_map": self._joined.state,
            "installed": self.installed,
            "rival": self._installer.rival,
            "ztunnels": self._zds.connected,
            "pods": {str(phase): counts[phase] for phase in Phase},
            "redirected": {str(each): by_backend[each] for each in Backend},
            "labelled_not_redirected": self._agent.not_redirected(),
            "probed_addresses": len(self._agent.enrolment.probes),
        }

    def collect(self) -> Iterator[Metric]:
        """Names are Istio's where Istio has one."""
        agent = self._agent
        plain: tuple[tuple[str, str, float], ...] = (
            ("ztunnel_connected", "Connected ztunnels.", self._zds.connected),
            ("istio_cni_install_ready", "The plugin is in the CNI configuration.", self.installed),
            (
                "ambient_cni_pods_not_redirected",
                "Running pods that belong into the mesh by their labels and are outside of it.",
                agent.not_redirected(),
            ),
            (
                "ambient_cni_probed_addresses",
                "Addresses that the kubelet reaches past the tunnel.",
                len(agent.enrolment.probes),
            ),
        )
        for name, text, number in plain:
            yield GaugeMetricFamily(name, text, number)
        phases, backends = self._phases(), Counter(agent.backends())
        gauges: tuple[tuple[str, str, str, Mapping[str, float]], ...] = (
            ("ambient_cni_pods", "Pods of this node.", "state", {p: phases[p] for p in Phase}),
            ("ambient_cni_backend", "What redirects here.", "backend", {agent.backend: 1}),
            (
                "ambient_cni_redirected_pods",
                "Enrolled pods by what redirects them.",
                "backend",
                {each: backends[each] for each in Backend},
            ),
        )
        for name, text, label, values in gauges:
            family = GaugeMetricFamily(name, text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
        yield from self._counters()

    def _counters(self) -> Iterator[Metric]:
        repairs = CounterMetricFamily(
            "istio_cni_repair_pods_repaired",
            "Pods that were started without the plugin.",
            labels=["type", "result"],
        )
        for labels, count in self._agent.enrolment.repairs.counts.items():
            repairs.add_metric(labels, count)
        yield repairs
        for name, text, label, values in (
            (
                "istio_cni_installs",
                "Changes of the CNI configuration, and what went wrong.",
                "result",
                self._installer.results,
            ),
            (
                "istio_cni_plugin_requests",
                "Calls of the plugin by their answer.",
                "response_code",
                {str(status): count for status, count in self.plugin_answers.items()},
            ),
            (
                "nodeagent_reconcile_events",
                "What the API server told of this node's pods.",
                "type",
                self.pod_events,
            ),
            (
                "ambient_cni_socket_map",
                "Connections that the socket map has joined, and why others went by TCP.",
                "result",
                self._joined.counts(),
            ),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family


async def _watch_namespaces(
    kube: KubeClient, agent: Agent, *, task_status: trio.TaskStatus[None]
) -> None:
    async for event in follow(kube, NAMESPACES):
        if event.kind is EventKind.SYNCED:
            task_status.started()
            continue
        name = event.object["metadata"]["name"]
        if event.kind is EventKind.DELETED:
            agent.namespace_changed(name, None)
            continue
        try:
            agent.namespace_changed(name, decode(event.object, Namespace))
        except ObjectError as error:
            log.warning(Event.OBJECT_UNREADABLE, error=str(error))


async def _watch_pods(
    kube: KubeClient,
    agent: Agent,
    node: str,
    seen: dict[str, int],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    async for event in follow(kube, PODS, field_selector=f"spec.nodeName={node}"):
        if event.kind is EventKind.SYNCED:
            task_status.started()
            continue
        seen[_EVENT_TYPES[event.kind]] += 1
        try:
            _tell_pod(agent, event)
        except ObjectError as error:
            log.warning(Event.OBJECT_UNREADABLE, error=str(error))


def _tell_pod(agent: Agent, event: WatchEvent) -> None:
    uid = _uid(event.object)
    if event.old is not None and _uid(event.old) != uid:
        agent.pod_gone(_uid(event.old))  # the name was taken by a new pod while we were away
    if event.kind is EventKind.DELETED:
        agent.pod_gone(uid)
    else:
        agent.pod_changed(decode(event.object, Pod))


def _uid(pod: KubeObject) -> str:
    return str(pod["metadata"].get("uid", ""))


async def _serve_health(
    settings: Settings, state: _State, *, task_status: trio.TaskStatus[None]
) -> None:
    async def healthy(request: Request) -> Response:
        return Response(200, "ok\n")

    async def ready(request: Request) -> Response:
        if state.watching and state.installed:
            return Response(200, "ready\n")
        waiting_for = "the CNI configuration" if state.watching else "the API server"
        return Response(503, f"waiting for {waiting_for}\n")

    routes = Routes()

    async def status(request: Request) -> Response:
        return Response(200, msgspec.json.encode(state.summary()), "application/json")

    handlers: dict[str, Handler] = {"/healthz": healthy, "/readyz": ready, "/status": status}
    for path, handler in handlers.items():
        routes.add(path, handler)
    try:
        listeners = await listen(settings.health_host, settings.health_port)
    except OSError as error:
        raise _port_taken("HEALTH_PORT", settings.health_port, error) from None
    await serve_http(listeners, routes, task_status=task_status)


async def _serve_metrics(
    settings: Settings, state: _State, *, task_status: trio.TaskStatus[int]
) -> None:
    registry = CollectorRegistry()
    registry.register(state)
    describe_process(registry, "cni")
    try:
        await serve_metrics(
            settings.monitoring_host, settings.monitoring_port, registry, task_status=task_status
        )
    except OSError as error:
        raise _port_taken("MONITORING_PORT", settings.monitoring_port, error) from None


def _port_taken(setting: str, port: int, error: OSError) -> MeshError:
    return MeshError(
        f"cannot listen on port {port}: {error.strerror or error}",
        hint=f"set {setting} to a free port, or stop what uses this one",
    )
