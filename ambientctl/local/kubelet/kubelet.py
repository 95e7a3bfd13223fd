"""The node agent: registers the node, follows its pods, and gives each a worker."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict
from ambient.kube.core.resources import NODES, PODS, KubeObject
from ambient.kube.core.watch import EventKind
from ambientctl.local.fabric import Node
from ambientctl.local.kube_api import KubeApi, Objects
from ambientctl.local.kubelet import cni
from ambientctl.local.kubelet.container import Container
from ambientctl.local.kubelet.events import Recorder
from ambientctl.local.kubelet.pod import NodeParts, PodWorker
from ambientctl.local.kubelet.status import timestamp
from ambientctl.local.layout import NodeLayout
from ambientctl.local.runtime import Runtime

NETWORK_CHECK_S: Final = 1.0
"""How often the CNI configuration is looked at for the node's Ready condition (containerd watches
the folder; a look at one small file each second costs less than a watch's code)."""


class Kubelet:
    """Runs the pods of one node."""

    def __init__(
        self, node: Node, runtime: Runtime, api: KubeApi, objects: Objects, log_folder: Path
    ) -> None:
        self.node = node
        self._api = api
        self._parts = NodeParts(
            node=node,
            runtime=runtime,
            api=api,
            objects=objects,
            chain=cni.Chain(runtime, node),
            recorder=Recorder(api, node.layout.name),
            log_folder=log_folder,
        )
        self.workers: dict[str, PodWorker] = {}
        """By the pod's uid."""

    async def run(self) -> None:
        """Register the node and run its pods for ever."""
        layout = self.node.layout
        cni.write_primary(layout)
        problem = _network_problem(layout)
        await self._register(problem)
        await self._parts.objects.synced.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_network, problem)
            selector = f"spec.nodeName={layout.name}"
            async for event in self._api.follow(PODS, field_selector=selector):
                if event.kind is not EventKind.SYNCED:
                    self._apply(event.kind, event.object, nursery)

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """A pod by its name."""
        return next((w for w in self.workers.values() if w.key == (namespace, name)), None)

    async def stop_all(self, grace_s: float) -> None:
        """End every container; the pods' objects stay."""
        async with trio.open_nursery() as nursery:
            for container in self._containers():
                nursery.start_soon(container.stop, grace_s)

    def _containers(self) -> list[Container]:
        return [c for worker in self.workers.values() for c in worker.containers.values()]

    def _apply(self, kind: EventKind, pod: KubeObject, nursery: trio.Nursery) -> None:
        uid = pod["metadata"]["uid"]
        worker = self.workers.get(uid)
        if kind is EventKind.DELETED:
            if worker is not None:
                worker.vanish()
            return
        if worker is None:
            if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return
            worker = self.workers[uid] = PodWorker(self._parts, pod)
            nursery.start_soon(self._work, uid, worker)
        worker.update(pod)

    async def _work(self, uid: str, worker: PodWorker) -> None:
        try:
            await worker.run()
        finally:
            del self.workers[uid]

    async def _register(self, problem: str) -> None:
        body = node_object(self.node.layout, problem)
        with contextlib.suppress(Conflict):
            await self._api.create(NODES, body)
        await self._write_conditions(problem)

    async def _watch_network(self, problem: str) -> None:
        while True:
            await trio.sleep(NETWORK_CHECK_S)
            found = _network_problem(self.node.layout)
            if found != problem:
                problem = found
                await self._write_conditions(problem)

    async def _write_conditions(self, problem: str) -> None:
        name = self.node.layout.name
        status = node_object(self.node.layout, problem)["status"]
        await self._api.patch(NODES, name, {"status": status}, subresource="status")


def _network_problem(layout: NodeLayout) -> str:
    """Why pods cannot be attached now; empty when they can."""
    try:
        cni.read_config(layout.cni_folder)
    except MeshError as error:
        return str(error)
    return ""


def node_object(layout: NodeLayout, problem: str) -> dict[str, Any]:
    """The Node as the API shows it."""
    now = timestamp()
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    capacity = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{pages * page // 1024}Ki",
        "pods": "110",
    }
    machine = os.uname()
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine.machine, machine.machine)
    ready = {
        "type": "Ready",
        "status": "False" if problem else "True",
        "reason": "KubeletNotReady" if problem else "KubeletReady",
        "message": f"container runtime network not ready: {problem}" if problem else "ready",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": layout.name,
            "labels": {
                "kubernetes.io/hostname": layout.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture,
            },
        },
        "spec": {"podCIDR": layout.pod_range, "podCIDRs": [layout.pod_range]},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [
                {"type": "InternalIP", "address": layout.address},
                {"type": "Hostname", "address": layout.name},
            ],
            "conditions": [ready],
            "nodeInfo": {
                "architecture": architecture,
                "operatingSystem": "linux",
                "kernelVersion": machine.release,
                "osImage": "ambient-mesh local",
                "containerRuntimeVersion": "process://1",
                "kubeletVersion": "v1.31.0-local",
                "kubeProxyVersion": "v1.31.0-local",
                "machineID": layout.name,
                "systemUUID": layout.name,
                "bootID": layout.name,
            },
        },
    }
