"""One pod on a node, from its volumes and its network to its last container's end."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.resources import PODS, KubeObject
from ambient.net.io.netns import Netns
from ambientctl.local.fabric import Node
from ambientctl.local.kube_api import KubeApi, Objects
from ambientctl.local.kubelet import cni
from ambientctl.local.kubelet.container import Container, Surroundings
from ambientctl.local.kubelet.events import Recorder
from ambientctl.local.kubelet.status import ContainerFacts, PodFacts, Run, pod_status, timestamp
from ambientctl.local.kubelet.volumes import VolumeNotReady, Volumes
from ambientctl.local.layout import CLUSTER_DOMAIN, DNS_SERVICE_ADDRESS, NodeLayout
from ambientctl.local.runtime import Mount, Process, ProcessSpec, Runtime

FIRST_RETRY_S: Final = 0.2
MAX_RETRY_S: Final = 10.0
"""Between attempts to make a sandbox."""
DEFAULT_GRACE_S: Final = 30


class NodeParts(msgspec.Struct, frozen=True, kw_only=True):
    """What all pods of a node use."""

    node: Node
    runtime: Runtime
    api: KubeApi
    objects: Objects
    chain: cni.Chain
    recorder: Recorder
    log_folder: Path


class PodWorker:
    """Brings one pod up, keeps it up, and takes it down when it is deleted."""

    def __init__(self, parts: NodeParts, pod: KubeObject) -> None:
        self.pod = pod
        self._parts = parts
        spec = pod["spec"]
        self.facts = PodFacts(
            host_ip=parts.node.layout.address,
            start_time=timestamp(),
            containers=[_facts(c) for c in spec["containers"]],
            init=[_facts(c) for c in spec.get("initContainers") or []],
        )
        self.containers: dict[str, Container] = {}
        self.sandbox: Process | None = None
        self._host_network = bool(spec.get("hostNetwork"))
        self._volumes = Volumes(pod, parts.node.layout, parts.api, parts.objects)
        self._cni: tuple[cni.ConfigList, cni.Sandbox, dict[str, Any] | None] | None = None
        self._dirty = trio.Event()
        self._deleting = trio.Event()
        self._gone = False
        self._conditions: list[dict[str, Any]] = []

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        metadata = self.pod["metadata"]
        return metadata["namespace"], metadata["name"]

    def update(self, pod: KubeObject) -> None:
        """A newer version of the object; a deletion time stamp starts the end."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._deleting.set()

    def vanish(self) -> None:
        """The object is gone from the API: end without ceremony."""
        self._gone = True
        self._deleting.set()

    def changed(self) -> None:
        """Facts have changed: the status has to be written."""
        self._dirty.set()

    async def run(self) -> None:
        """The whole life; returns when nothing of the pod is left on the node."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_status)
            async with trio.open_nursery() as living:
                living.start_soon(self._live)
                await self._deleting.wait()
                await self._stop_containers(self._grace_s())
                living.cancel_scope.cancel()
            await self._tear_down()
            nursery.cancel_scope.cancel()
        await self._finish()

    async def _live(self) -> None:
        await self._until_volumes()
        async with self._network() as around, trio.open_nursery() as nursery:
            nursery.start_soon(self._volumes.keep_fresh, self._known())
            await self._run_containers(around)
            nursery.cancel_scope.cancel()

    async def _run_containers(self, around: Surroundings) -> None:
        spec = self.pod["spec"]
        policy = spec.get("restartPolicy") or "Always"
        for container, facts in zip(spec.get("initContainers") or [], self.facts.init, strict=True):
            runner = self.containers[facts.name] = Container(container, facts, around)
            code = await runner.run("Never" if policy == "Never" else "OnFailure")
            if code != 0:
                return
            facts.ready = True
        self.facts.initialized = True
        self.changed()
        async with trio.open_nursery() as nursery:
            for container, facts in zip(spec["containers"], self.facts.containers, strict=True):
                runner = self.containers[facts.name] = Container(container, facts, around)
                nursery.start_soon(runner.run, policy)

    async def _until_volumes(self) -> None:
        """Wait until all that the volumes show exists; woken by changes, not by time."""
        while True:
            changed = self._parts.objects.changed
            try:
                await self._volumes.prepare(self._known())
                return
            except (VolumeNotReady, KubeError) as error:
                await self._hindered("FailedMount", f"MountVolume.SetUp failed: {error}")
                with trio.move_on_after(1 if isinstance(error, KubeError) else MAX_RETRY_S):
                    await changed.wait()

    @asynccontextmanager
    async def _network(self) -> AsyncIterator[Surroundings]:
        """The pod's namespaces, filled by CNI; the node's own for a host-network pod."""
        parts = self._parts
        if self._host_network:
            join, holder = parts.node.enter(), parts.node.holder
            self.facts.pod_ip = self.facts.host_ip
        else:
            holder = await self._until_sandbox()
            join = [holder.namespace(kind) for kind in ("net", "uts", "ipc")]
        self.facts.sandbox = True
        self.changed()
        with Netns.open(parts.node.holder.namespace("net")) as node:
            yield Surroundings(
                pod=self.pod,
                runtime=parts.runtime,
                join=join,
                address=self.facts.pod_ip,
                node=node,
                system_mounts=self._system_mounts(),
                volume_mounts=self._volumes.mounts,
                status=self._known(),
                find=parts.objects.get,
                log_folder=parts.log_folder,
                changed=self.changed,
                record=self.record,
            )

    def network_namespace(self) -> str:
        """Path of the namespace. Raises OSError before the pod has one."""
        holder = self._parts.node.holder if self._host_network else self.sandbox
        if holder is None:
            raise OSError(f"pod {self.key[1]} has no network yet")
        return holder.namespace("net")

    async def _until_sandbox(self) -> Process:
        wait_s = FIRST_RETRY_S
        while True:
            try:
                return await self._make_sandbox()
            except MeshError as error:
                await self._hindered("FailedCreatePodSandBox", str(error))
                await self._remove_sandbox()
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, MAX_RETRY_S)

    async def _make_sandbox(self) -> Process:
        parts, metadata = self._parts, self.pod["metadata"]
        self.sandbox = await parts.runtime.start(
            ProcessSpec(
                unshare=["net", "uts", "ipc"],
                hostname=(self.pod["spec"].get("hostname") or metadata["name"])[:63],
            )
        )
        show_process(parts.node.layout, self.sandbox, metadata["uid"])
        described = cni.Sandbox(
            container_id=secrets.token_hex(32),
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            process=self.sandbox,
            port_mappings=_port_mappings(self.pod),
        )
        config = cni.read_config(parts.node.layout.cni_folder)
        self._cni = (config, described, None)
        result = await parts.chain.add(config, described)
        self._cni = (config, described, result)
        found = cni.addresses(result)
        if not found:
            raise cni.CniError("the CNI chain gave the pod no address")
        self.facts.pod_ip = found[0]
        return self.sandbox

    async def _remove_sandbox(self) -> None:
        if self._cni is not None:
            try:
                await self._parts.chain.delete(*self._cni)
            except MeshError as error:
                await self.record("Warning", "FailedKillPod", str(error))
            self._cni = None
        if self.sandbox is not None:
            hide_process(self._parts.node.layout, self.sandbox)
            await self._parts.runtime.kill(self.sandbox)
            self.sandbox = None
        if not self._host_network:
            self.facts.pod_ip = ""
        self.facts.sandbox = False

    def _system_mounts(self) -> list[Mount]:
        folder = self._volumes.folder
        folder.mkdir(parents=True, exist_ok=True)
        name = self.pod["metadata"]["name"]
        (folder / "resolv.conf").write_text(resolv_conf(self.pod))
        (folder / "hosts").write_text(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            f"{self.facts.pod_ip}\t{name}\n" + _host_aliases(self.pod)
        )
        return [
            Mount("", "/run"),
            Mount(str(folder / "resolv.conf"), "/etc/resolv.conf"),
            Mount(str(folder / "hosts"), "/etc/hosts"),
        ]

    def _grace_s(self) -> float:
        if self._gone:
            return 0.0
        return float(self.pod["metadata"].get("deletionGracePeriodSeconds", DEFAULT_GRACE_S))

    async def _stop_containers(self, grace_s: float) -> None:
        running = [c for c in self.containers.values() if c.facts.run is Run.RUNNING]
        if running and not self._gone:
            await self.record("Normal", "Killing", "Stopping the pod's containers")
        async with trio.open_nursery() as nursery:
            for container in self.containers.values():
                nursery.start_soon(container.stop, grace_s)

    async def _tear_down(self) -> None:
        await self._stop_containers(0.0)  # one may have been starting when the end came
        await self._remove_sandbox()
        self._volumes.remove()

    async def _finish(self) -> None:
        """Tell the API server that the pod has ended; it then removes the object."""
        if self._gone:
            return
        namespace, name = self.key
        with suppress(NotFound):
            await self._parts.api.delete(PODS, name, namespace, grace_s=0)

    async def _write_status(self) -> None:
        """One patch per batch of changes; the newest facts win."""
        self._dirty.set()
        namespace, name = self.key
        policy = self.pod["spec"].get("restartPolicy") or "Always"
        while True:
            await self._dirty.wait()
            self._dirty = trio.Event()
            status = pod_status(self.facts, policy, self._conditions, timestamp())
            self._conditions = status["conditions"]
            body = {"status": status}
            if not self.facts.pod_ip:
                status |= {"podIP": None, "podIPs": None}
            try:
                await self._parts.api.patch(
                    PODS, name, body, namespace=namespace, subresource="status"
                )
            except KubeError:
                if self._gone:
                    return
                await trio.sleep(1)
                self._dirty.set()

    def _known(self) -> dict[str, Any]:
        return {"podIP": self.facts.pod_ip, "hostIP": self.facts.host_ip}

    async def _hindered(self, reason: str, message: str) -> None:
        """The containers cannot start yet: say why, in an event and in their status."""
        for facts in (*self.facts.init, *self.facts.containers):
            facts.message = message
        self.changed()
        await self.record("Warning", reason, message)

    async def record(self, kind: str, reason: str, message: str) -> None:
        """Write an event about this pod."""
        await self._parts.recorder.record(self.pod, kind, reason, message)


def show_process(node: NodeLayout, process: Process, uid: str) -> None:
    """List a pod's process on the node, as /proc and a runtime's control group would.

    There are no control groups here (an ordinary user cannot make any), but a node agent finds
    the network namespaces of running pods by them.
    """
    entry = node.process_list / str(process.pid)
    entry.mkdir(parents=True, exist_ok=True)
    (entry / "cgroup").write_text(f"0::/kubepods/besteffort/pod{uid}/sandbox\n")
    for name in ("ns", "stat", "status"):
        (entry / name).symlink_to(f"/proc/{process.pid}/{name}")


def hide_process(node: NodeLayout, process: Process) -> None:
    """Take an ended process off the node's list."""
    shutil.rmtree(node.process_list / str(process.pid), ignore_errors=True)


def resolv_conf(pod: KubeObject) -> str:
    """The pod's resolver (dnsPolicy ClusterFirst, or None with dnsConfig)."""
    config = pod["spec"].get("dnsConfig") or {}
    servers, searches, options = [], [], []
    if pod["spec"].get("dnsPolicy") != "None":
        namespace = pod["metadata"]["namespace"]
        servers = [DNS_SERVICE_ADDRESS]
        searches = [f"{namespace}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN]
        options = ["ndots:5"]
    servers += config.get("nameservers") or []
    searches += config.get("searches") or []
    for option in config.get("options") or []:
        value = option.get("value")
        options.append(f"{option['name']}:{value}" if value else option["name"])
    lines = [f"nameserver {server}" for server in servers]
    lines += [f"search {' '.join(searches)}"] if searches else []
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


def _host_aliases(pod: KubeObject) -> str:
    return "".join(
        f"{alias['ip']}\t{' '.join(alias.get('hostnames') or [])}\n"
        for alias in pod["spec"].get("hostAliases") or []
    )


def _facts(container: dict[str, Any]) -> ContainerFacts:
    return ContainerFacts(container["name"], container.get("image", ""))


def _port_mappings(pod: KubeObject) -> list[dict[str, Any]]:
    return [
        {
            "hostPort": port["hostPort"],
            "containerPort": port["containerPort"],
            "protocol": port.get("protocol", "TCP").lower(),
        }
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or []
        if port.get("hostPort")
    ]
