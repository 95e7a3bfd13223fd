"""The node's side of health probes: which pod addresses are reached from the probe address.

Rules and sets stay when the agent stops, and a new agent takes over what it finds, so probes never
see a gap. ``ambient.net.core.host_rules`` says how it works.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from ambient.api.address import IPAddress
from ambient.api.errors import MeshError
from ambient.net.core import host_rules, rules
from ambient.net.core.rule_diff import diff
from ambient.net.io import branch_routes, nft
from ambient.net.io.netns import Netns
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.settings import Settings

LOOK_S: Final = 5.0
"""A firewall that is loaded again flushes everybody's rules; a probe has three tries, usually
ten seconds apart."""
_KUBELETS: Final = frozenset({"kubelet", "kubelite", "k3s", "k3s-server", "k0s"})
"""Command names of what probes pods; microk8s and k3s have the kubelet inside another program."""
_ROOT: Final = 0

log = get_logger("agent")


def node_netns(settings: Settings) -> Netns:
    """The namespace in which the kubelet lives. Raises MeshError."""
    if not settings.allow_switch_to_host_ns:
        return Netns.current()
    path = f"{settings.proc_dir}/1/ns/net"
    try:
        return Netns.open(path)
    except OSError as error:
        raise MeshError(
            f"cannot open the node's network namespace {path}: {error.strerror or error}",
            hint="mount the node's /proc and name it in PROC_DIR, or run the agent with "
            "hostNetwork and without ALLOW_SWITCH_TO_HOST_NS",
        ) from None


def kubelet_uid(proc_dir: str) -> int | None:
    """The user whose sockets the kubelet's are; None where no kubelet runs."""
    for process in Path(proc_dir).iterdir():
        if not process.name.isdigit():
            continue
        try:
            if (process / "comm").read_text().strip() not in _KUBELETS:
                continue
            status = (process / "status").read_text()
        except OSError:
            continue  # it ended meanwhile
        for line in status.splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[4])  # the file system's, which sockets belong to
    return None


class HostProbes:
    """Owns table and sets in the node's namespace; one change at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probed: dict[IPAddress, str] = {}
        self._uid = _ROOT
        self._netns: Netns | None = None
        self._applied = host_rules.ABSENT
        """What the kernel was told last."""
        self._turn = trio.Lock()

    def __len__(self) -> int:
        """How many addresses are in the sets."""
        return len(self._probed)

    async def start(self, members: Mapping[str, frozenset[IPAddress]]) -> None:
        """Take over: pods of the mesh by UID, with their addresses as far as they are known.

        What else is in the sets goes; a pod without a known address keeps what it has. Raises
        MeshError where the node's kernel refuses.
        """
        self._netns = node_netns(self._settings)
        found = await trio.to_thread.run_sync(kubelet_uid, self._settings.proc_dir)
        self._uid = _ROOT if found is None else found
        present = host_rules.probed(await trio.to_thread.run_sync(nft.read, self._netns))
        for ip, uid in present.items():
            if uid in members and not members[uid]:
                self._probed[ip] = uid
        for uid, addresses in members.items():
            self._probed |= dict.fromkeys(addresses, uid)
        await trio.to_thread.run_sync(self._reconcile)
        log.info(
            Event.PROBES_READY,
            kubelet_uid=self._uid,
            kubelet_found=found is not None,
            addresses=len(self._probed),
        )

    async def put(self, uid: str, addresses: frozenset[IPAddress]) -> None:
        """Exactly these addresses are the pod's. Raises MeshError."""
        if not self._settings.ambient_ipv6:
            addresses = frozenset(ip for ip in addresses if ip.version == 4)
        kept = {ip: owner for ip, owner in self._probed.items() if owner != uid}
        wanted = kept | dict.fromkeys(addresses, uid)
        if wanted == self._probed:
            return
        self._probed = wanted
        async with self._turn:  # the newest state wins: whoever waited may find all done
            await trio.to_thread.run_sync(self._update)

    async def drop(self, uid: str) -> None:
        """The pod has left; an address that another pod has by now stays. Raises MeshError."""
        await self.put(uid, frozenset())

    async def keep(self) -> None:
        """Put right, for ever, what somebody else changes."""
        while True:
            await trio.sleep(LOOK_S)
            try:
                async with self._turn:
                    current = self._applied == self._wanted()
                    changed = await trio.to_thread.run_sync(self._reconcile)
            except MeshError as error:
                log.warning(Event.PROBES_FAILED, error=str(error), hint=error.hint)
                continue
            if changed and current:
                log.warning(Event.PROBES_MENDED, addresses=len(self._probed))

    def close(self) -> None:
        """Let go of the namespace; the rules stay, for the kubelet goes on too."""
        if self._netns is not None:
            self._netns.close()
            self._netns = None

    def _wanted(self) -> rules.Ruleset:
        return host_rules.present(self._uid, self._probed, ipv6=self._settings.ambient_ipv6)

    def _update(self) -> None:
        """Send what has changed since the last time; look first only where that does not fit."""
        assert self._netns is not None, "start comes first"
        wanted = self._wanted()
        try:
            nft.perform(self._netns, diff(wanted, self._applied))
        except MeshError:
            nft.apply(self._netns, wanted)
        self._applied = wanted
        self._keep_on_node()

    def _reconcile(self) -> bool:
        """Look what is there and put it right; whether something had to change."""
        assert self._netns is not None, "start comes first"
        wanted = self._wanted()
        changed = bool(nft.apply(self._netns, wanted))
        self._applied = wanted
        return self._keep_on_node() or changed

    def _keep_on_node(self) -> bool:
        """Where the node's routing would take probes away; whether something had to change."""
        if not self._settings.ambient_enable_aws_branch_eni_probe:
            return False
        assert self._netns is not None, "start comes first"
        return bool(branch_routes.keep(self._netns, self._probed))
