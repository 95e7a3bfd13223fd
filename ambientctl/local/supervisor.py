"""The mesh's supervisor: one process that plays API server, controllers, kubelets, proxy and DNS.

The mesh's own programs (istiod-lite, ztunnel, the CNI agent, waypoints) are not in here: they are
pods, started from manifests like any other.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
import traceback
from functools import partial
from typing import Any, Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    KubeObject,
)
from ambient.net.io import bpf_flows
from ambientctl.console import only_mesh_error
from ambientctl.local import dns, fabric, readiness, service_proxy
from ambientctl.local.cluster_api import ClusterApi
from ambientctl.local.control import Control
from ambientctl.local.control_wire import SOCKET_NAME
from ambientctl.local.kube_api import Objects
from ambientctl.local.kubelet import cni
from ambientctl.local.kubelet.kubelet import Kubelet
from ambientctl.local.layout import FABRIC_ADDRESS, RUN, MeshConfig
from ambientctl.local.log_files import last_lines, log_path
from ambientctl.local.manifest_files import cluster_manifests, mesh_manifests, sample_manifests
from ambientctl.local.mesh_status import MeshStatus, NodeStatus, PodStatus
from ambientctl.local.pod_commands import launch
from ambientctl.local.report import Report, Reporter
from ambientctl.local.runtime import Runtime
from ambientctl.local.state_folder import StateFolder

READY_LIMIT_S: Final = 120.0
"""Only a broken mesh takes this long; a sound one needs some 15 s on two slow cores."""
STOP_GRACE_S: Final = 3.0
"""For all containers together, when the mesh goes down."""


class Supervisor:
    """Composition of one mesh."""

    def __init__(self, config: MeshConfig, init: socket.socket) -> None:
        self._config = config
        self._runtime = Runtime(init)
        self._folder = StateFolder(config.name)
        self._reporter = Reporter(config.report_fd)
        self._kubelets: list[Kubelet] = []
        self._ready = False
        self._objects: Objects | None = None
        self._began = time.monotonic()

    async def run(self) -> None:
        """Until SIGTERM; raises MeshError when the mesh cannot be made."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._runtime.serve)
                nursery.start_soon(self._mesh, nursery)
                async for _ in signals:
                    break
                self._log("ending")
                await self._stop_pods()
                nursery.cancel_scope.cancel()

    async def _mesh(self, nursery: trio.Nursery) -> None:
        layouts = self._config.node_layouts()
        RUN.mkdir(parents=True, exist_ok=True)
        self._stage("network", f"{len(layouts)} nodes on {FABRIC_ADDRESS}/24")
        nodes = await fabric.build(self._runtime, layouts)
        self._stage("api server", f"https://127.0.0.1:{self._config.api_port}")
        cluster = await ClusterApi.start(nursery, self._config, self._folder)
        cluster.pod_namespace = self._pod_namespace
        api = cluster.direct("ambientctl-local")
        objects = self._objects = Objects(api, NODES, PODS, DEPLOYMENTS, DAEMON_SETS)
        # Apart from those, which change all the time while pods start.
        services = Objects(api, SERVICES, ENDPOINT_SLICES)
        kubelet_api = cluster.direct("kubelet")
        content = Objects(kubelet_api, CONFIG_MAPS, SECRETS)
        for followed in (objects, services, content):
            nursery.start_soon(followed.run)
        for node in nodes:
            kubelet = Kubelet(node, self._runtime, kubelet_api, content, self._folder.logs)
            self._kubelets.append(kubelet)
            nursery.start_soon(kubelet.run)
        nursery.start_soon(service_proxy.run, self._runtime, nodes, services)
        nursery.start_soon(dns.serve, dns.Zone(services), FABRIC_ADDRESS)
        control = Control(self._runtime, self._kubelets, self._status)
        cluster.launch = partial(launch, self._runtime, control)
        nursery.start_soon(control.serve, self._folder.bind_control(SOCKET_NAME))
        self._stage("manifests", self._config.sample)
        manifests = (
            cluster_manifests() if self._config.bare else mesh_manifests(self._config.redirection)
        )
        if self._config.sample != "none":
            manifests += sample_manifests(self._config.sample)
        for manifest in manifests:
            await api.apply(manifest)
        await self._until_ready(objects)
        self._ready = True
        self._log("ready")
        self._reporter.send(Report(ready=True))
        self._reporter.close()

    def _pod_namespace(self, namespace: str, name: str) -> str:
        for kubelet in self._kubelets:
            worker = kubelet.find(namespace, name)
            if worker is not None:
                return worker.network_namespace()
        raise OSError(f"pod {namespace}/{name} does not run here")

    async def _until_ready(self, objects: Objects) -> None:
        told: readiness.Readiness | None = None
        deadline = trio.current_time() + READY_LIMIT_S
        while True:
            changed = objects.changed
            state = readiness.assess(
                objects.all(NODES).values(),
                [*objects.all(DEPLOYMENTS).values(), *objects.all(DAEMON_SETS).values()],
                objects.all(PODS).values(),
                self._config.nodes,
            )
            if state.complete:
                return
            if state != told:
                told = state
                self._stage("pods", f"{state.ready} of {state.wanted} ready", *state.waiting)
            self._raise_if_failing(objects)
            with trio.move_on_at(deadline) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                raise self._too_slow(state, objects)

    def _raise_if_failing(self, objects: Objects) -> None:
        failing = readiness.failing(objects.all(PODS).values())
        if failing is not None:
            tail = self._tail(failing.namespace, failing.pod, failing.container)
            raise MeshError(
                f"{failing.pod} ({failing.container}) keeps ending with status "
                f"{failing.exit_code}: {tail}"
            )

    def _too_slow(self, state: readiness.Readiness, objects: Objects) -> MeshError:
        reasons = []
        for pod in objects.all(PODS).values():
            why = readiness.why_waiting(pod)
            if why:
                metadata = pod["metadata"]
                first = pod["spec"]["containers"][0]["name"]
                tail = self._tail(metadata["namespace"], metadata["name"], first)
                reasons.append(f"{metadata['name']} is {why} ({tail})")
        text = "; ".join(reasons[:3]) or ", ".join(state.waiting)
        return MeshError(f"the mesh was not ready within {READY_LIMIT_S:g} s: {text}")

    def _tail(self, namespace: str, pod: str, container: str) -> str:
        lines = last_lines(log_path(self._folder.logs, namespace, pod, container), 3)
        return " | ".join(lines) or "it wrote no log"

    async def _stop_pods(self) -> None:
        with trio.move_on_after(STOP_GRACE_S):
            async with trio.open_nursery() as nursery:
                for kubelet in self._kubelets:
                    nursery.start_soon(kubelet.stop_all, STOP_GRACE_S)

    def _status(self) -> MeshStatus:
        objects = self._objects
        pods = sorted(objects.all(PODS).items()) if objects else []
        nodes = objects.all(NODES) if objects else {}
        return MeshStatus(
            name=self._config.name,
            ready=self._ready,
            rootless=self._config.rootless,
            pid=self._folder.pid(),
            kubeconfig=str(self._folder.kubeconfig),
            logs=str(self._folder.logs),
            nodes=[
                self._node_status(k, nodes.get(("", k.node.layout.name))) for k in self._kubelets
            ],
            pods=[self._pod_status(pod) for _, pod in pods],
        )

    def _node_status(self, kubelet: Kubelet, node: KubeObject | None) -> NodeStatus:
        layout = kubelet.node.layout
        try:
            chain = [str(p["type"]) for p in cni.read_config(layout.cni_folder).plugins]
        except cni.CniError:
            chain = []
        ready = node is not None and readiness.condition(node, "Ready")
        bpf = layout.host_path(bpf_flows.FOLDER)
        placed = any(bpf.glob(f"{bpf_flows.LINKS}/*"))
        return NodeStatus(
            name=layout.name,
            address=layout.address,
            pod_range=layout.pod_range,
            ready=ready,
            cni_chain=chain,
            redirection="ebpf" if placed else "nftables",
            ebpf_pods=len(list(bpf.glob(f"{bpf_flows.POD_LINKS}/*"))),
        )

    def _pod_status(self, pod: KubeObject) -> PodStatus:
        metadata, status = pod["metadata"], pod.get("status") or {}
        states = status.get("containerStatuses") or []
        annotations = metadata.get("annotations") or {}
        processes: dict[str, int] = {}
        for kubelet in self._kubelets:
            worker = kubelet.workers.get(metadata["uid"])
            if worker is not None:
                processes = {name: c.facts.pid for name, c in worker.containers.items()}
        return PodStatus(
            namespace=metadata["namespace"],
            name=metadata["name"],
            node=pod["spec"].get("nodeName") or "",
            ip=status.get("podIP") or "",
            phase=status.get("phase") or "",
            ready=sum(1 for state in states if state.get("ready")),
            total=len(pod["spec"]["containers"]),
            restarts=sum(state.get("restartCount", 0) for state in states),
            enrolled=annotations.get("ambient.istio.io/redirection") == "enabled",
            reason=readiness.why_waiting(pod),
            containers=processes,
        )

    def _stage(self, stage: str, detail: str, *more: str) -> None:
        self._log(f"{stage}: {detail} {' '.join(more)}")
        self._reporter.send(Report(stage=stage, detail=detail))

    def _log(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the disk may be full
            print(f"{time.monotonic() - self._began:8.3f} {text}", file=sys.stderr, flush=True)

    def fail(self, error: MeshError) -> None:
        """Tell why there is no mesh."""
        self._log(f"error: {error}")
        self._reporter.send(Report(error=str(error), hint=error.hint))


def main(config: dict[str, Any], init: socket.socket) -> int:
    """Run the mesh; the exit status becomes that of the whole mesh."""
    supervisor = Supervisor(msgspec.convert(config, MeshConfig), init)
    try:
        trio.run(supervisor.run)
    except BaseExceptionGroup as group:
        error = only_mesh_error(group)
        if error is None:
            traceback.print_exc()
            leaf: BaseException = group
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            reason = str(leaf) if isinstance(leaf, OSError) else repr(leaf)
            error = MeshError(
                f"the supervisor failed: {reason}", hint="AMBIENT_LOCAL_TRACE=1 shows more"
            )
        with contextlib.suppress(OSError):  # nobody waits for the answer
            supervisor.fail(error)
        return 1
    return 0
