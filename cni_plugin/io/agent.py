"""The node agent: brings each pod of the node into the mesh, or out of it.

One task per pod at a time, and only while there is something to do for it. Order of enrolling: the
tunnel first opens its listeners in the pod, then the rules send traffic there, so that nothing is
refused in between. Order of leaving: the redirects go first and new connections are direct; when
the last connection that the tunnel carries has ended, the tunnel is told, and the rest of the
rules goes. A ztunnel cuts what it still carries when it is told earlier.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, NamedTuple

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import NotFound
from ambient.kube.core.objects import REDIRECTION_ANNOTATION, Namespace, Pod, decode
from ambient.kube.core.resources import NAMESPACES, PODS
from ambient.kube.io.client import KubeClient
from ambient.net.core.rules import Options
from ambient.net.io import tunnel_flows
from ambient.net.io.netns import Netns
from ambient.net.io.zds_link import Workload
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core import enrol
from cni_plugin.core.backend import Backend, Capture, capture_of
from cni_plugin.core.event import Added
from cni_plugin.core.reconcile import (
    ENABLED,
    Action,
    Facts,
    Phase,
    next_action,
    retry_after_s,
)
from cni_plugin.io import kube_reports, pod_netns
from cni_plugin.io.blocking import EnrolError, on_thread
from cni_plugin.io.entry import Entry
from cni_plugin.io.guest_files import is_guest
from cni_plugin.io.host_probes import HostProbes
from cni_plugin.io.redirector import Redirector
from cni_plugin.io.remarks import Remarks
from cni_plugin.io.repairs import Repairs
from cni_plugin.io.zds_server import ZdsServer
from cni_plugin.settings import Settings

DRAIN_LOOK_S: Final = 0.5
"""How often a draining pod is looked at."""
LEAST_DRAIN_S: Final = 2.0
"""Other nodes send to the tunnel until the control plane has told them; that takes this long."""
PODS_AT_ONCE: Final = 8

log = get_logger("agent")


class Answer(NamedTuple):
    """What the plugin is told about a new pod."""

    enrolled: bool
    reason: str


class Agent:
    """Owns the entries; ``start`` must have been called before anything happens."""

    def __init__(self, settings: Settings, kube: KubeClient, zds: ZdsServer) -> None:
        self._settings = settings
        self._kube = kube
        self._zds = zds
        self._exclusions = enrol.Exclusions(
            frozenset(settings.exclude_namespaces), settings.system_namespace
        )
        self._entries: dict[str, Entry] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._nursery: trio.Nursery | None = None
        self._limit = trio.CapacityLimiter(PODS_AT_ONCE)
        self.probes: Final = HostProbes(settings)
        self._redirector: Final = Redirector(settings, zds)
        self._remarks: Final = Remarks(kube, settings.node_name)
        self.repairs: Final = Repairs(settings.repair, kube, self._remarks)
        self.annotate_guest: Callable[[str, str | None], Awaitable[None]] | None = None
        """Says that a guest is redirected, as the annotation does for a pod; see ``guests``."""

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
        return self._redirector.backend

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
                await self._unenrol(entry, pod)
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
        await self._redirector.open()
        await self.probes.start({e.uid: e.addresses for e in entries if self._is_member(e)})
        for entry in entries:
            try:
                await self._adopt(entry)
            except MeshError as error:
                entry.phase = Phase.OUT  # so that it is tried again
                log.warning(Event.ENROL_FAILED, pod=entry.name, error=str(error))
        await self._redirector.forget_strangers(entries)
        nursery.start_soon(self.probes.keep)
        nursery.start_soon(self._redirector.keep, self._entries, self._wake)
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
        self.probes.close()
        self._redirector.close()
        for entry in self._entries.values():
            entry.release_netns()

    def _is_member(self, entry: Entry) -> bool:
        """Whether an earlier agent has enrolled the pod, and it still belongs into the mesh."""
        pod = entry.pod
        if pod is None or pod.finished or not self._reason(pod).wanted:
            return False
        return pod.metadata.annotation(REDIRECTION_ANNOTATION) == ENABLED

    async def _adopt(self, entry: Entry) -> None:
        pod = entry.pod
        if pod is None or pod.finished or pod.spec.host_network:
            return
        entry.netns = await on_thread(pod_netns.recorded, self._settings, pod)
        entry.seen_by_plugin = entry.netns is not None
        if self._is_member(entry):
            await self._adopt_member(entry, pod)
        elif entry.netns is not None:
            if await self._redirector.present(entry.netns):
                entry.phase = Phase.DRAINING
                self._zds.adopt(_workload(pod, entry.netns))
            else:
                entry.release_netns()

    async def _adopt_member(self, entry: Entry, pod: Pod) -> None:
        """Its annotation says that it is redirected; the kernel is asked whether that is true."""
        await self._locate(entry, pod)
        self._zds.adopt(_workload(pod, entry.netns))  # a ztunnel that has it goes on with it
        if entry.netns is None:
            return  # and then it counts as outside, and is looked for until it is found
        if not await self._redirector.present(entry.netns):
            return  # started without the plugin, after a reboot for example
        entry.phase = Phase.ENROLLED
        await self._redirector.redirect(entry, entry.netns, self._capture(pod))

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
                await self._enrol_added(entry, pod, event)
            except MeshError as error:
                # The runtime tells of a sandbox that failed; this event names whom it waits for.
                self._remarks.failure(pod, error)
                raise
        self._wake(entry)  # the annotation may wait; the pod need not
        return Answer(True, reason)

    async def _enrol_added(self, entry: Entry, pod: Pod, event: Added) -> None:
        try:
            netns = Netns.open(event.netns)
        except OSError as error:
            raise EnrolError(
                f"cannot open the network namespace {event.netns}: {error.strerror or error}",
                hint="the agent must see the runtime's namespaces under the same path",
            ) from None
        if event.inode and netns.key != (event.device, event.inode):
            netns.close()
            raise EnrolError(f"{event.netns} is another network namespace than a moment ago")
        if entry.netns is None or entry.netns.key != netns.key:
            entry.release_netns()
            entry.netns = netns
        else:
            netns.close()
        entry.told_ips, entry.seen_by_plugin = event.ips, True
        await self._enrol(entry, pod)

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
                    wait_s = await self._step(entry)
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
            self._redirector.gone(entry.netns)
            entry.release_netns()
            self._entries.pop(entry.uid, None)

    async def _step(self, entry: Entry) -> float | None:
        """One action; seconds until the next look, None when all is done. Raises MeshError."""
        pod = entry.pod
        action = next_action(self._facts(entry))
        match action:
            case Action.NOTHING:
                return None
            case Action.RELEASE:
                await self._release(entry)
            case Action.FINISH_DRAIN:
                if not await self._finish_drain(entry):
                    return DRAIN_LOOK_S
            case Action.ENROL | Action.ANNOTATE | Action.UNENROL:
                assert pod is not None  # a fact that these follow from
                await self._change(entry, pod, action)
        return 0.0

    async def _change(self, entry: Entry, pod: Pod, action: Action) -> None:
        if action is Action.UNENROL:
            await self._unenrol(entry, pod)
            return
        if action is Action.ENROL:
            await self._locate(entry, pod)
            if entry.phase is Phase.OUT and await self.repairs.evicted(entry, pod):
                return
            await self._enrol(entry, pod)
        await self._annotate(entry, pod, ENABLED)

    async def _locate(self, entry: Entry, pod: Pod) -> None:
        """Find the namespace, again where the pod has got another sandbox since."""
        if entry.netns is not None and not await on_thread(
            pod_netns.belongs, entry.netns, entry.addresses
        ):
            entry.release_netns()
            entry.phase = Phase.OUT
        if entry.netns is None:
            entry.netns = await on_thread(pod_netns.recorded, self._settings, pod)
            entry.seen_by_plugin = entry.netns is not None
        if entry.netns is None:
            entry.netns = await on_thread(pod_netns.discovered, self._settings, pod)

    def _facts(self, entry: Entry) -> Facts:
        pod = entry.pod
        if pod is None or pod.finished:
            return Facts(False, False, False, entry.phase, None)
        return Facts(
            exists=True,
            wanted=self._reason(pod).wanted,
            has_address=bool(pod.ips),
            phase=entry.phase,
            annotation=pod.metadata.annotation(REDIRECTION_ANNOTATION),
            rules_fit=entry.capture in (None, self._capture(pod))
            and entry.probed == entry.addresses
            and not entry.could_have_ebpf,
            leaving=entry.evicted,
        )

    async def _enrol(self, entry: Entry, pod: Pod) -> None:
        """Tunnel, then rules; both or none. The entry has the namespace already."""
        netns = entry.netns
        if netns is None:
            raise EnrolError(
                f"no process of {entry.name} was found, so its network namespace is not known",
                hint="the pod joins when it is restarted; was it started without the plugin?",
            )
        outside = 0
        if entry.phase is Phase.OUT:
            outside = await on_thread(tunnel_flows.outside, netns)
        capture = self._capture(pod)
        await self._redirector.admit(netns, capture)
        await self._zds.add(_workload(pod, netns))
        try:
            # Before the rules: no probe of the kubelet may meet them under its usual address.
            await self.probes.put(entry.uid, entry.addresses)
            await self._redirector.redirect(entry, netns, capture)
        except MeshError:
            if entry.phase is Phase.OUT:  # else the tunnel carries connections of the pod
                await self._zds.remove(entry.uid)
            raise
        entry.phase = Phase.ENROLLED
        log.info(
            Event.POD_ENROLLED,
            pod=entry.name,
            uid=entry.uid,
            netns=netns.key[1],
            backend=entry.backend,
            connections_outside=outside,
        )
        self._remarks.joined(pod, outside)

    async def _unenrol(self, entry: Entry, pod: Pod) -> None:
        await self._locate(entry, pod)
        if entry.netns is not None:
            await self._redirector.drain(entry.netns, self._capture(pod))
        await self._forget_probes(entry)
        entry.phase = Phase.DRAINING
        entry.drains_until = trio.current_time() + LEAST_DRAIN_S
        log.info(Event.POD_UNENROLLED, pod=entry.name, uid=entry.uid, reason=str(self._reason(pod)))
        await self._annotate(entry, pod, None)

    async def _finish_drain(self, entry: Entry) -> bool:
        """Whether the last connection has ended and everything of ours is gone."""
        netns = entry.netns
        if trio.current_time() < entry.drains_until:
            return False
        if netns is not None and await on_thread(tunnel_flows.count, netns) > 0:
            return False
        if self._zds.holds(entry.uid):
            await self._zds.remove(entry.uid)
            return False  # what it took on in the last moment still needs the rules
        if netns is not None:
            await self._redirector.clear(netns)
        entry.release_netns()
        entry.phase = Phase.OUT
        log.info(Event.POD_DRAINED, pod=entry.name, uid=entry.uid)
        return True

    async def _forget_probes(self, entry: Entry) -> None:
        await self.probes.drop(entry.uid)
        entry.probed = frozenset()

    async def _release(self, entry: Entry) -> None:
        await self._forget_probes(entry)
        await self._zds.remove(entry.uid)
        self._redirector.gone(entry.netns)
        entry.release_netns()
        entry.phase = Phase.OUT
        pod = entry.pod
        if pod is not None and pod.metadata.annotation(REDIRECTION_ANNOTATION) is not None:
            await self._annotate(entry, pod, None)

    async def _annotate(self, entry: Entry, pod: Pod, value: str | None) -> None:
        if is_guest(entry.uid):
            if self.annotate_guest is not None:
                await self.annotate_guest(entry.uid, value)
            annotations = {} if value is None else {REDIRECTION_ANNOTATION: value}
            metadata = msgspec.structs.replace(pod.metadata, annotations=annotations)
            if entry.pod is pod:
                entry.pod = msgspec.structs.replace(pod, metadata=metadata)
            return
        answer = await kube_reports.annotate(self._kube, pod, value)
        if answer is not None and entry.pod is pod:
            # Do not wait for the watch to tell what we know: it would look like work to do.
            entry.pod = decode(answer, Pod)

    # Facts about a pod.

    def _report_eligibility(self, pod: Pod) -> None:
        self._remarks.eligibility(pod, self._namespaces.get(pod.metadata.namespace))

    def _reason(self, pod: Pod) -> enrol.Reason:
        return enrol.decide(pod, self._namespaces.get(pod.metadata.namespace), self._exclusions)

    def _capture(self, pod: Pod) -> Capture:
        settings = self._settings
        dns, wish = settings.ambient_dns_capture, settings.redirection_backend
        return capture_of(pod, Capture(Options(ipv6=settings.ambient_ipv6, dns=dns), wish))


def _workload(pod: Pod, netns: Netns | None) -> Workload:
    metadata = pod.metadata
    return Workload(metadata.uid, metadata.name, metadata.namespace, pod.service_account, netns)
