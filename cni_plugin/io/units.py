"""A systemd unit of the node's own network in the mesh, by its control group: what it sends.

One unit a node: the tunnel's listeners in the node's network have one identity. What comes in for
the unit reaches it as before, because nobody can tell it from what comes in for the node; so no
WorkloadEntry of a unit ever says that it speaks HBONE.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.net.core.rules import Options
from ambient.net.io import bpf_unit, cgroup2
from ambient.net.io.bpf_unit import UnitCapture
from ambient.net.io.netns import Netns
from ambient.net.io.zds_link import Workload
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core.guest_request import BadGuestError, Enroll
from cni_plugin.core.reconcile import Phase
from cni_plugin.io import discover
from cni_plugin.io.blocking import EnrolError, on_thread
from cni_plugin.io.guest_files import Guest
from cni_plugin.io.host_probes import node_netns
from cni_plugin.io.zds_server import ZdsServer
from cni_plugin.settings import Settings

LOOK_S: Final = 0.2
"""How often it is looked whether systemd has made the group anew: so long what a restarted unit
opens can be direct."""
MEND_S: Final = 5.0
"""How often the node's addresses are told to the programs, and what failed is tried again."""

# Nobody has these addresses (RFC 5737, RFC 3849): the way there is the default route.
_SOMEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

log = get_logger("agent")


class Units:
    """The node's unit, if there is one; what ``Agent`` is for network namespaces."""

    def __init__(self, settings: Settings, zds: ZdsServer) -> None:
        self._settings = settings
        self._options = Options(ipv6=settings.ambient_ipv6, dns=settings.ambient_dns_capture)
        self._zds = zds
        self._guest: Guest | None = None
        self._phase = Phase.OUT
        self._capture: UnitCapture | None = None
        self._netns: Netns | None = None
        self._turn = trio.Lock()
        self._news = trio.Event()
        self._complaint = ""

    def phase(self, uid: str) -> Phase:
        """How far this guest is in."""
        return self._phase if self._guest is not None and self._guest.uid == uid else Phase.OUT

    def introduce(self, guest: Guest) -> None:
        """The unit of an earlier agent: its programs work; the tunnel is told in the snapshot."""
        self._take(guest, Phase.DRAINING if guest.leaving else Phase.ENROLLED)
        self._zds.adopt(self._workload(guest))

    async def join(self, guest: Guest) -> None:
        """The tunnel listens, then it is redirected. Raises MeshError, and nothing has changed."""
        async with self._turn:
            capture = await self._programs()
            self._take(guest, Phase.OUT)
            try:
                await self._zds.add(self._workload(guest))
                try:
                    await on_thread(capture.enrol, self._home(), guest.cgroup, self._options)
                except MeshError:
                    await on_thread(capture.clear, self._home())
                    await self._zds.remove(guest.uid)
                    raise
            except MeshError:
                self._guest = None
                raise
            self._phase = Phase.ENROLLED

    async def let_go(self, guest: Guest) -> None:
        """What it opens from now on is direct. Raises MeshError."""
        async with self._turn:
            await on_thread((await self._programs()).drain)
            self._phase = Phase.DRAINING

    def gone(self, uid: str) -> None:
        """It has left."""
        if self._guest is not None and self._guest.uid == uid:
            self._guest = None

    async def run(self) -> None:
        """See to the unit, for ever: it may be started again, and leaves when it has drained."""
        looked_s, inode = float("-inf"), 0
        while True:
            if self._guest is None:
                await self._news.wait()
            await trio.sleep(LOOK_S)
            guest, now_s = self._guest, trio.current_time()
            if guest is None:
                continue
            there = _inode(guest.cgroup)
            if now_s - looked_s < MEND_S and there in (0, inode) and self._phase is Phase.ENROLLED:
                continue
            looked_s, inode = now_s, there
            try:
                await self._mend()
                self._complaint = ""
            except MeshError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    log.warning(Event.ENROL_FAILED, pod=guest.uid, error=str(error))

    async def _mend(self) -> None:
        async with self._turn:
            guest, netns = self._guest, self._home()
            if guest is None:
                return
            if self._phase is Phase.ENROLLED and _inode(guest.cgroup):
                capture = await self._programs()
                await on_thread(capture.enrol, netns, guest.cgroup, self._options)
            elif self._phase is Phase.DRAINING:
                capture = await self._programs()
                await on_thread(capture.drain)
                if await on_thread(bpf_unit.carried, netns) == 0:
                    await self._zds.remove(guest.uid)
                    await on_thread(capture.clear, netns)
                    self._phase = Phase.OUT

    def close(self) -> None:
        """The unit stays as it is."""
        if self._capture is not None:
            self._capture.close()
        if self._netns is not None:
            self._netns.close()

    def find(self, request: Enroll) -> Guest:
        """Where its group is for us, and the node's address. Raises BadGuestError, MeshError."""
        key = (request.device, request.inode)
        paths = [f"{base}{request.cgroup}" for base in (f"{self._settings.proc_dir}/1/root", "")]
        path = next((each for each in paths if _key(each) == key), None)
        if path is None:
            raise BadGuestError(
                f"the node agent does not find the control group {request.cgroup}",
                hint="it must see the node's processes (PROC_DIR) or /sys/fs/cgroup",
            )
        if not cgroup2.is_below_root(path):
            raise BadGuestError(
                f"{request.cgroup} is no group below the root of a cgroup hierarchy of version 2",
                hint="give it a systemd unit or slice",
            )
        if "kubepods" in request.cgroup:
            raise BadGuestError(
                f"{request.cgroup} is of pods",
                hint="pods join by their label istio.io/dataplane-mode=ambient",
            )
        if cgroup2.processes(path) & {os.getpid(), *self._zds.processes()}:
            raise BadGuestError(
                f"{request.cgroup} contains the mesh's own processes", hint="choose a smaller unit"
            )
        self._check_free(request, path)
        return Guest(
            name=request.name,
            namespace=request.namespace,
            service_account=request.service_account,
            netns="",
            cgroup=path,
            device=request.device,
            inode=request.inode,
            ips=tuple(self._home().run(_own_addresses)),
        )

    def _check_free(self, request: Enroll, path: str) -> None:
        """One identity a node, and one group. Raises BadGuestError."""
        there = self._guest
        if there is None:
            return
        wanted = (request.namespace, request.name, request.service_account, path)
        if wanted != (there.namespace, there.name, there.service_account, there.cgroup):
            raise BadGuestError(
                f"{there.namespace}/{there.name} has this node's network already, and one unit can",
                hint="unenroll that one, or give the units network namespaces "
                "(NetworkNamespacePath=); units of one identity can share a slice",
            )

    def _take(self, guest: Guest, phase: Phase) -> None:
        self._guest, self._phase = guest, phase
        self._news.set()
        self._news = trio.Event()

    def _workload(self, guest: Guest) -> Workload:
        return Workload(guest.uid, guest.name, guest.namespace, guest.service_account, self._home())

    def _home(self) -> Netns:
        """The node's network. Raises MeshError."""
        if self._netns is None:
            self._netns = node_netns(self._settings)
        return self._netns

    async def _programs(self) -> UnitCapture:
        if self._capture is None:
            settings = self._settings
            try:
                self._capture = await on_thread(
                    UnitCapture.open, settings.proc_dir, settings.bpf_dir
                )
            except MeshError as error:
                raise EnrolError(
                    f"a unit of the node's own network needs eBPF: {error}", hint=error.hint
                ) from None
        return self._capture


def _key(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        info = os.stat(path)
        return info.st_dev, info.st_ino
    return None


def _inode(path: str) -> int:
    """0 where there is nothing at present."""
    found = _key(path)
    return 0 if found is None else found[1]


def _own_addresses() -> Iterable[str]:
    """Of the default routes; else what there is. Raises MeshError."""
    found = []
    for family, far in _SOMEWHERE:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((far, 9))  # of a datagram socket: nothing is sent
            found.append(sock.getsockname()[0])
    if not found:
        with Netns.current() as here:
            ips = sorted(discover.addresses(here), key=lambda ip: (ip.version, str(ip)))
        found = [str(ip) for ip in ips if not (ip.is_loopback or ip.is_link_local)]
    if not found:
        raise BadGuestError(
            "this node has no address that others could reach", hint="connect it to a network"
        )
    return found
