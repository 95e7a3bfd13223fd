"""Enrolment of one pod: into the mesh, or out of it, a step at a time.

Order of enrolling: the tunnel first opens its listeners in the pod, then the rules send traffic
there, so that nothing is refused in between. Order of leaving: the redirects go first and new
connections are direct; when the last connection that the tunnel carries has ended, the tunnel is
told, and the rest of the rules goes. A ztunnel cuts what it still carries when it is told earlier.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.objects import REDIRECTION_ANNOTATION, Pod, decode
from ambient.kube.io.client import KubeClient
from ambient.net.core.rules import Options
from ambient.net.io import tunnel_flows
from ambient.net.io.netns import Netns
from ambient.net.io.zds_link import Workload
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core.backend import Capture, capture_of
from cni_plugin.core.enrol import Reason
from cni_plugin.core.event import Added
from cni_plugin.core.reconcile import ENABLED, Action, Facts, Phase, next_action
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

log = get_logger("agent")


class Enrolment:
    """What is done to a pod; whoever calls holds the entry's lock. Raises MeshError.

    ``reason`` says whether a pod belongs into the mesh, as far as labels are known.
    """

    def __init__(
        self,
        settings: Settings,
        kube: KubeClient,
        zds: ZdsServer,
        remarks: Remarks,
        reason: Callable[[Pod], Reason],
    ) -> None:
        self._settings = settings
        self._kube = kube
        self._zds = zds
        self._remarks = remarks
        self._reason = reason
        self.probes: Final = HostProbes(settings)
        self.redirector: Final = Redirector(settings, zds)
        self.repairs: Final = Repairs(settings.repair, kube, remarks)
        self.annotate_guest: Callable[[str, str | None], Awaitable[None]] | None = None
        """Says that a guest is redirected, as the annotation does for a pod; see ``guests``."""

    async def take_over(self, entries: Collection[Entry]) -> None:
        """What an earlier agent left; healthy pods notice nothing of it."""
        await self.redirector.open()
        await self.probes.start({e.uid: e.addresses for e in entries if self._is_member(e)})
        for entry in entries:
            try:
                await self._adopt(entry)
            except MeshError as error:
                entry.phase = Phase.OUT  # so that it is tried again
                log.warning(Event.ENROL_FAILED, pod=entry.name, error=str(error))
        await self.redirector.forget_strangers(entries)

    async def keep(self, entries: Mapping[str, Entry], wake: Callable[[Entry], None]) -> None:
        """Look after what is in the kernel, for ever; ``wake`` where there is something to do."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.probes.keep)
            nursery.start_soon(self.redirector.keep, entries, wake)

    def close(self) -> None:
        """Rules and tunnels stay."""
        self.probes.close()
        self.redirector.close()

    def forget(self, entry: Entry) -> None:
        """The pod's network namespace is gone, or no longer of interest."""
        self.redirector.gone(entry.netns)
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
            if await self.redirector.present(entry.netns):
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
        if not await self.redirector.present(entry.netns):
            return  # started without the plugin, after a reboot for example
        entry.phase = Phase.ENROLLED
        await self.redirector.redirect(entry, entry.netns, self._capture(pod))

    async def enrol_added(self, entry: Entry, pod: Pod, event: Added) -> None:
        """Enrol a sandbox that has just got its network."""
        key = (event.device, event.inode) if event.inode else None
        try:
            netns = pod_netns.named(self._settings, event.netns, key)
        except OSError as error:
            raise EnrolError(
                f"cannot open the network namespace {event.netns}: {error.strerror or error}",
                hint="the agent must see the runtime's namespaces under the same path, below "
                "/proc the node's processes under PROC_DIR",
            ) from None
        if netns is None:
            raise EnrolError(f"{event.netns} is another network namespace than a moment ago")
        if entry.netns is None or entry.netns.key != netns.key:
            entry.release_netns()
            entry.netns = netns
        else:
            netns.close()
        entry.told_ips, entry.seen_by_plugin = event.ips, True
        await self._enrol(entry, pod)

    async def step(self, entry: Entry) -> float | None:
        """One action; seconds until the next look, None when all is done."""
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
            await self.unenrol(entry, pod)
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
        await self.redirector.admit(netns, capture)
        await self._zds.add(_workload(pod, netns))
        try:
            # Before the rules: no probe of the kubelet may meet them under its usual address.
            await self.probes.put(entry.uid, entry.addresses)
            await self.redirector.redirect(entry, netns, capture)
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

    async def unenrol(self, entry: Entry, pod: Pod) -> None:
        """New connections are direct when this returns; open ones stay in the tunnel."""
        await self._locate(entry, pod)
        if entry.netns is not None:
            await self.redirector.drain(entry.netns, self._capture(pod))
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
            await self.redirector.clear(netns)
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
        self.forget(entry)
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

    def _capture(self, pod: Pod) -> Capture:
        settings = self._settings
        dns, wish = settings.ambient_dns_capture, settings.redirection_backend
        return capture_of(pod, Capture(Options(ipv6=settings.ambient_ipv6, dns=dns), wish))


def _workload(pod: Pod, netns: Netns | None) -> Workload:
    metadata = pod.metadata
    return Workload(metadata.uid, metadata.name, metadata.namespace, pod.service_account, netns)
