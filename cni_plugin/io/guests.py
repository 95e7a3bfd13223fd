"""Processes outside Kubernetes in the mesh: asked for over the agent's socket, kept in files.

A guest is a network namespace of this node with an identity. For the rest of the agent it is a pod
that no API server knows; the control plane learns of it by a WorkloadEntry. Or it is a unit of the
node's own network (``units``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict, KubeError, NotFound
from ambient.kube.core.objects import NODE_ANNOTATION, REDIRECTION_ANNOTATION
from ambient.kube.core.resources import NAMESPACES, PODS, SERVICE_ACCOUNTS, WORKLOAD_ENTRIES
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core.event import Added
from cni_plugin.core.guest_request import BadGuestError, Enroll, Unenroll
from cni_plugin.core.reconcile import Phase
from cni_plugin.io import discover, guest_files, pod_netns
from cni_plugin.io.agent import Agent
from cni_plugin.io.guest_files import Guest
from cni_plugin.io.host_probes import node_netns
from cni_plugin.io.units import Units
from cni_plugin.settings import Settings

LOOK_S: Final = 5.0
"""How often it is looked whether a guest's namespace still exists."""
DRAIN_LOOK_S: Final = 0.5

log = get_logger("agent")


class Guests:
    """Owns the files and WorkloadEntries of guests."""

    def __init__(self, settings: Settings, kube: KubeClient, agent: Agent, units: Units) -> None:
        self._settings = settings
        self._run_dir = settings.cni_agent_run_dir
        self._kube = kube
        self._agent = agent
        self._units = units
        self._turn = trio.Lock()

    def load(self) -> None:
        """Make the guests of an earlier agent known; before the agent starts."""
        for guest in guest_files.read_all(self._run_dir):
            if guest.cgroup:
                self._units.introduce(guest)
            else:
                self._agent.introduce(guest.pod())

    async def enroll(self, request: Enroll) -> dict[str, Any]:
        """Bring it in; what the caller is told. Raises MeshError, and then nothing has changed."""
        async with self._turn:
            find = self._units.find if request.cgroup else self._found
            guest = await trio.to_thread.run_sync(find, request)
            await self._check_identity(guest)
            self._check_place(guest)
            there = guest_files.read(self._run_dir, guest.uid)
            if there is not None and self._phase(there) is Phase.ENROLLED:
                return _told(there)
            guest = msgspec.structs.replace(guest, entry_made=await self._make_entry(guest))
            guest_files.write(self._run_dir, guest)
            try:
                await self._join(guest)
            except MeshError:
                await self._forget(guest)
                raise
        log.info(Event.GUEST_JOINED, guest=guest.uid, netns=guest.netns, cgroup=guest.cgroup)
        return _told(guest)

    async def _join(self, guest: Guest) -> None:
        if guest.cgroup:
            await self._units.join(guest)
            return
        self._agent.introduce(guest.pod())
        await self._agent.cni_added(_as_event(guest))

    def _phase(self, guest: Guest) -> Phase:
        return (self._units if guest.cgroup else self._agent).phase(guest.uid)

    async def unenroll(self, request: Unenroll) -> dict[str, Any]:
        """Let it go: new connections are direct from now on. Raises BadGuestError."""
        async with self._turn:
            wanted = (request.namespace, request.name)
            guests = guest_files.read_all(self._run_dir)
            guest = next((g for g in guests if (g.namespace, g.name) == wanted), None)
            if guest is None:
                known = ", ".join(f"{g.namespace}/{g.name}" for g in self._all()) or "nobody"
                raise BadGuestError(
                    f"{request.namespace}/{request.name} is not enrolled on this node",
                    hint=f"enrolled are: {known}",
                )
            await self._let_go(guest)
        return {"name": guest.name, "namespace": guest.namespace}

    async def watch(self) -> None:
        """Forget guests that have left, and those whose namespace is gone; for ever."""
        while True:
            guests = list(self._all())
            leaving = False
            for guest in guests:
                if guest.leaving and self._phase(guest) is Phase.OUT:
                    await self._forget(guest)
                elif not (guest.leaving or guest.cgroup or _is_there(guest)):
                    # The path is gone; the namespace may live on, and must not stay redirected.
                    log.info(Event.GUEST_VANISHED, guest=guest.uid, netns=guest.netns)
                    await self._let_go(guest)
                    leaving = True
                leaving = leaving or guest.leaving
            await trio.sleep(DRAIN_LOOK_S if leaving else LOOK_S)

    async def _let_go(self, guest: Guest) -> None:
        leaving = msgspec.structs.replace(guest, leaving=True)
        guest_files.write(self._run_dir, leaving)
        if guest.cgroup:
            await self._units.let_go(leaving)
        else:
            await self._agent.let_go(leaving.pod())

    def _all(self) -> list[Guest]:
        return list(guest_files.read_all(self._run_dir))

    def _found(self, request: Enroll) -> Guest:
        """Where the namespace is for us, and its addresses. Raises BadGuestError."""
        paths = [request.netns] if request.netns else []
        for proc in dict.fromkeys((self._settings.proc_dir, "/proc")) if request.pid else ():
            paths.append(f"{proc}/{request.pid}/ns/net")
        try:
            netns = pod_netns.open_same(paths, (request.device, request.inode))
        except OSError:
            netns = None
        if netns is None:
            raise BadGuestError(
                f"the node agent does not find the network namespace under {' or '.join(paths)}",
                hint="it must see the node's processes (PROC_DIR) or the folder of the namespace",
            )
        path, opened = netns
        with opened, node_netns(self._settings) as own:
            if opened.key == own.key:
                raise BadGuestError(
                    "it uses the node's own network: all of the node's traffic would be captured",
                    hint="give it a network namespace (systemd: NetworkNamespacePath=); or enrol "
                    "what a unit sends, by --systemd-unit or --cgroup",
                )
            ips = sorted(discover.addresses(opened), key=_by_usefulness)
        usable = tuple(str(ip) for ip in ips if not (ip.is_loopback or ip.is_link_local))
        if not usable:
            raise BadGuestError(
                f"the network namespace {path} has no address that others could reach",
                hint="connect it to the node first, as the network plugin does for pods",
            )
        return Guest(
            name=request.name,
            namespace=request.namespace,
            service_account=request.service_account,
            netns=path,
            device=request.device,
            inode=request.inode,
            ips=usable,
        )

    def _check_place(self, guest: Guest) -> None:
        other = self._agent.owner_of((guest.device, guest.inode))
        if other is not None and other.uid != guest.uid:
            raise BadGuestError(
                f"that network namespace belongs to {other.name}",
                hint="pods join by their label istio.io/dataplane-mode=ambient",
            )
        for present in self._all():
            same = present.cgroup == guest.cgroup and (
                guest.cgroup or (present.device, present.inode) == (guest.device, guest.inode)
            )
            if (
                present.uid == guest.uid
                and not (same and not present.leaving)
                and _is_there(present)
            ):
                raise BadGuestError(
                    f"{guest.namespace}/{guest.name} is another guest of this node already",
                    hint="choose another --name, or unenroll that one first",
                )

    async def _check_identity(self, guest: Guest) -> None:
        """The identity exists, and the name is free. Raises BadGuestError, KubeError."""
        account = f"{guest.namespace}/{guest.service_account}"
        for resource, name, namespace, problem in (
            (NAMESPACES, guest.namespace, None, f"there is no namespace {guest.namespace}"),
            (
                SERVICE_ACCOUNTS,
                guest.service_account,
                guest.namespace,
                f"there is no service account {account}",
            ),
        ):
            try:
                await self._kube.get(resource, name, namespace)
            except NotFound:
                raise BadGuestError(problem, hint="create it first: it is the identity") from None
            except KubeError as error:
                if error.status != 403:  # a role need not let the agent see accounts
                    raise
        try:
            await self._kube.get(PODS, guest.name, guest.namespace)
        except NotFound:
            return
        raise BadGuestError(
            f"{guest.namespace}/{guest.name} is the name of a pod", hint="choose another --name"
        )

    async def _make_entry(self, guest: Guest) -> bool:
        """Whether the WorkloadEntry is ours; one that somebody wrote is used as it is."""
        body = {
            "metadata": {
                "name": guest.name,
                "namespace": guest.namespace,
                "annotations": {NODE_ANNOTATION: self._settings.node_name},
            },
            "spec": {"address": guest.ips[0], "serviceAccount": guest.service_account},
        }
        try:
            await self._kube.create(WORKLOAD_ENTRIES, body)
        except Conflict:
            there = await self._kube.get(WORKLOAD_ENTRIES, guest.name, guest.namespace)
            spec = there.get("spec") or {}
            if (spec.get("address"), spec.get("serviceAccount")) != (
                guest.ips[0],
                guest.service_account,
            ):
                raise BadGuestError(
                    f"WorkloadEntry {guest.namespace}/{guest.name} has another address or account",
                    hint="correct it, delete it, or choose another --name",
                ) from None
            metadata = {"annotations": {NODE_ANNOTATION: self._settings.node_name}}
            await self._patch_entry(guest.uid, {"metadata": metadata})
            previous = guest_files.read(self._run_dir, guest.uid)
            return previous is not None and previous.entry_made
        except NotFound:
            log.warning(
                Event.GUEST_UNKNOWN,
                guest=guest.uid,
                hint="the cluster has no kind WorkloadEntry, so the control plane does not know "
                "the guest; apply manifests/crds",
            )
            return False
        return True

    async def _patch_entry(self, uid: str, body: dict[str, Any]) -> None:
        guest = guest_files.read(self._run_dir, uid)
        if guest is None:
            return
        try:
            await self._kube.patch(WORKLOAD_ENTRIES, guest.name, body, namespace=guest.namespace)
        except NotFound:
            return

    async def annotate(self, uid: str, value: str | None) -> None:
        """Say in file and WorkloadEntry that it is redirected. Raises KubeError."""
        guest = guest_files.read(self._run_dir, uid)
        if guest is not None:
            guest_files.write(self._run_dir, msgspec.structs.replace(guest, annotation=value))
            body = {"metadata": {"annotations": {REDIRECTION_ANNOTATION: value}}}
            await self._patch_entry(uid, body)

    async def _forget(self, guest: Guest) -> None:
        guest_files.remove(self._run_dir, guest.uid)
        if guest.cgroup:
            self._units.gone(guest.uid)
        else:
            self._agent.pod_gone(guest.uid)
        if not guest.entry_made:
            return
        try:
            await self._kube.delete(WORKLOAD_ENTRIES, guest.name, guest.namespace)
        except NotFound:
            return
        except MeshError as error:
            log.warning(Event.GUEST_UNKNOWN, guest=guest.uid, error=str(error))


def _told(guest: Guest) -> dict[str, Any]:
    return {
        "name": guest.name,
        "namespace": guest.namespace,
        "addresses": guest.ips,
        "workload_entry": guest.entry_made,
        "outbound_only": bool(guest.cgroup),
    }


def _as_event(guest: Guest) -> Added:
    return Added(
        guest.name,
        guest.namespace,
        guest.netns,
        uid=guest.uid,
        ips=guest.ips,
        device=guest.device,
        inode=guest.inode,
    )


def _is_there(guest: Guest) -> bool:
    if guest.cgroup:
        return True  # a unit that is stopped may be started again
    try:
        info = Path(guest.netns).stat()
    except OSError:
        return False
    return (info.st_dev, info.st_ino) == (guest.device, guest.inode)


def _by_usefulness(ip: Any) -> tuple[int, str]:
    """IPv4 first: the WorkloadEntry has room for one address."""
    return ip.version, str(ip)
