"""The node agent: knows every pod of the node, and works on those whose enrolment has to change.

One task per pod at a time, and only while there is something to do for it; what is done is
``enrolment``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import NotFound
from ambient.kube.core.objects import Namespace, Pod, decode
from ambient.kube.core.resources import NAMESPACES, PODS
from ambient.kube.io.client import KubeClient
from cni_plugin.core import enrol
from cni_plugin.core.backend import Backend
from cni_plugin.core.event import Added
from cni_plugin.core.reconcile import Phase, retry_after_s
from cni_plugin.io.blocking import EnrolError
from cni_plugin.io.enrolment import Enrolment
from cni_plugin.io.entry import Entry
from cni_plugin.io.remarks import Remarks
from cni_plugin.io.zds_server import ZdsServer
from cni_plugin.settings import Settings

PODS_AT_ONCE: Final = 8


class Answer(NamedTuple):
    """What the plugin is told about a new pod."""

    enrolled: bool
    reason: str


class Agent:
    """Owns the entries; ``start`` must have been called before anything happens."""

    def __init__(self, settings: Settings, kube: KubeClient, zds: ZdsServer) -> None:
        self._kube = kube
        self._exclusions = enrol.Exclusions(
            frozenset(settings.exclude_namespaces), settings.system_namespace
        )
        self._entries: dict[str, Entry] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._nursery: trio.Nursery | None = None
        self._limit = trio.CapacityLimiter(PODS_AT_ONCE)
        self._remarks: Final = Remarks(kube, settings.node_name)
        self.enrolment: Final = Enrolment(settings, kube, zds, self._remarks, self._reason)

    def entries(self) -> Iterator[Entry]:
        """Every pod of the node, to be looked at."""
        return iter(self._entries.values())

    def not_redirected(self) -> int:
        """Running pods that belong into the mesh by their labels, and whose traffic is outside."""
        return sum(
            entry.phase is not Phase.ENROLLED
            for entry in self._entries.values()
            if entry.pod is not None and entry.pod.ips and self._reason(entry.pod).wanted
        )

    @property
    def backend(self) -> Backend:
        """What redirects pods whose annotations say nothing else."""
        return self.enrolment.redirector.backend

    def backends(self) -> Iterator[Backend]:
        """What redirects each pod that is in the mesh."""
        for entry in self._entries.values():
            if entry.phase is Phase.ENROLLED and entry.backend is not None:
                yield entry.backend

    def phase(self, uid: str) -> Phase:
        """How far one pod is in; a pod that is not known is out."""
        entry = self._entries.get(uid)
        return Phase.OUT if entry is None else entry.phase

    def owner_of(self, key: tuple[int, int]) -> Entry | None:
        """Whose network namespace (device, inode) it is, as far as that is known."""
        entries = self._entries.values()
        return next((e for e in entries if e.netns is not None and e.netns.key == key), None)

    def introduce(self, pod: Pod) -> None:
        """A guest: nothing is done about it before ``start`` or ``cni_added``."""
        self._entry(pod.metadata.uid).pod = pod

    async def let_go(self, pod: Pod) -> None:
        """A guest leaves: its new connections are direct when this returns. Raises MeshError."""
        entry = self._entry(pod.metadata.uid)
        entry.pod = pod
        async with entry.lock:
            if entry.phase is Phase.ENROLLED:
                await self.enrolment.unenrol(entry, pod)
        self._wake(entry)

    # What the API server tells. Nothing here waits.

    def pod_changed(self, pod: Pod) -> None:
        """A pod of this node is there, or is different from before."""
        entry = self._entry(pod.metadata.uid)
        entry.pod = pod
        if entry.member_from_start is None and pod.ips:
            entry.member_from_start = self._reason(pod).wanted
        self._remarks.label("Pod", pod)
        self._report_eligibility(pod)
        self._wake(entry)

    def pod_gone(self, uid: str) -> None:
        """The API server has the pod no more."""
        entry = self._entries.get(uid)
        if entry is not None:
            entry.pod = None
            self._remarks.forget(uid)
            self._wake(entry)

    def namespace_changed(self, name: str, namespace: Namespace | None) -> None:
        """A namespace is there, or different, or gone (None)."""
        if namespace is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = namespace
            self._remarks.label("Namespace", namespace)
        for entry in self._entries.values():
            if entry.pod is not None and entry.pod.metadata.namespace == name:
                self._report_eligibility(entry.pod)
                self._wake(entry)

    # Start and end.

    async def start(self, nursery: trio.Nursery) -> None:
        """Take over what an earlier agent left; healthy pods notice nothing of it.

        Called when the first lists are complete, and before any ztunnel is served.
        """
        entries = list(self._entries.values())
        await self.enrolment.take_over(entries)
        nursery.start_soon(self.enrolment.keep, self._entries, self._wake)
        self._nursery = nursery  # not earlier: a pod that changes now must be adopted first
        self._remarks.start(nursery)
        for namespace in self._namespaces.values():
            self._remarks.label("Namespace", namespace)
        for entry in list(self._entries.values()):
            if entry.pod is not None:
                self._remarks.label("Pod", entry.pod)
                self._report_eligibility(entry.pod)
            self._wake(entry)

    def close(self) -> None:
        """Release the namespaces. Rules and tunnels stay: the pods go on without us."""
        self.enrolment.close()
        for entry in self._entries.values():
            entry.release_netns()

    # The plugin's call.

    async def cni_added(self, event: Added) -> Answer:
        """A pod's sandbox has its network: enrol it now if it belongs in. Raises MeshError."""
        pod = await self._pod_of(event)
        await self._know_namespace(pod.metadata.namespace)
        reason = self._reason(pod)
        if not reason.wanted:
            return Answer(False, reason)
        entry = self._entry(pod.metadata.uid)
        if entry.pod is None:
            entry.pod = pod
        async with entry.lock:
            try:
                await self.enrolment.enrol_added(entry, pod, event)
            except MeshError as error:
                # The runtime tells of a sandbox that failed; this event names whom it waits for.
                self._remarks.failure(pod, error)
                raise
        self._wake(entry)  # the annotation may wait; the pod need not
        return Answer(True, reason)

    async def _pod_of(self, event: Added) -> Pod:
        for entry in self._entries.values():
            metadata = entry.pod.metadata if entry.pod is not None else None
            if metadata is None or (metadata.namespace, metadata.name) != (
                event.namespace,
                event.name,
            ):
                continue
            if not event.uid or event.uid == entry.uid:
                assert entry.pod is not None
                return entry.pod
        try:
            pod = decode(await self._kube.get(PODS, event.name, event.namespace), Pod)
        except NotFound:
            raise EnrolError(f"the API server has no pod {event.namespace}/{event.name}") from None
        if event.uid and event.uid != pod.metadata.uid:
            raise EnrolError(f"{event.namespace}/{event.name} is another pod by now")
        return pod

    async def _know_namespace(self, name: str) -> None:
        if name not in self._namespaces:
            namespace = decode(await self._kube.get(NAMESPACES, name), Namespace)
            self._namespaces.setdefault(name, namespace)

    # One pod's work.

    def _entry(self, uid: str) -> Entry:
        return self._entries.setdefault(uid, Entry(uid))

    def _wake(self, entry: Entry) -> None:
        entry.woken.set()
        if not entry.working and self._nursery is not None:
            entry.working = True
            self._nursery.start_soon(self._work, entry)

    async def _work(self, entry: Entry) -> None:
        """Step until nothing is left to do; a failure is tried again for as long as it takes."""
        failures = 0
        while True:
            entry.woken = trio.Event()
            try:
                async with entry.lock, self._limit:
                    wait_s = await self.enrolment.step(entry)
                failures = 0
            except MeshError as error:
                failures += 1
                wait_s = retry_after_s(failures)
                self._remarks.failure(entry.pod, error)
            if entry.woken.is_set():
                continue
            if wait_s is None:
                break
            with trio.move_on_after(wait_s):
                await entry.woken.wait()
        entry.working = False
        if entry.pod is None and entry.phase is Phase.OUT and not entry.lock.locked():
            self.enrolment.forget(entry)
            self._entries.pop(entry.uid, None)

    # Facts about a pod.

    def _report_eligibility(self, pod: Pod) -> None:
        self._remarks.eligibility(pod, self._namespaces.get(pod.metadata.namespace))

    def _reason(self, pod: Pod) -> enrol.Reason:
        return enrol.decide(pod, self._namespaces.get(pod.metadata.namespace), self._exclusions)
