"""The agent's way to its backends: on worker threads, with a log of what a pod did not get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import trio

from ambient.net.io.netns import Netns
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core.backend import Backend, Capture
from cni_plugin.io.blocking import on_thread
from cni_plugin.io.entry import Entry
from cni_plugin.io.redirection import Redirection
from cni_plugin.io.zds_server import ZdsServer
from cni_plugin.settings import Settings

LOOK_S: Final = 5.0
"""How often pods that eBPF redirects are looked at: the kernel tells nobody of an address that a
pod has got, nor that a connection no longer needs to be translated."""

log = get_logger("agent")


class Redirector:
    """Redirects entries; every method raises MeshError where the kernel refuses."""

    def __init__(self, settings: Settings, zds: ZdsServer) -> None:
        self._wanted = settings.redirection_backend != "nftables"
        self._backends = Redirection(settings)
        self._zds = zds

    @property
    def backend(self) -> Backend:
        """What redirects pods whose annotations say nothing else."""
        return self._backends.backend

    async def open(self) -> None:
        """Take over what an earlier agent left; comes first."""
        await on_thread(self._backends.open, wanted=self._wanted)

    async def forget_strangers(self, entries: Iterable[Entry]) -> None:
        """When every pod's namespace has been looked for, and no new one is enrolled yet."""
        alive = [entry.netns for entry in entries if entry.netns is not None]
        await on_thread(self._backends.forget_strangers, alive)

    async def present(self, netns: Netns) -> bool:
        """Whether anything of ours is in the pod."""
        return await on_thread(self._backends.present, netns)

    async def admit(self, netns: Netns, capture: Capture) -> None:
        """Before the tunnel is told of a pod."""
        await on_thread(self._backends.admit, netns, capture)

    async def redirect(self, entry: Entry, netns: Netns, capture: Capture) -> None:
        """By the backend that the pod can have; another one than was wished for has a reason."""
        before = entry.backend
        entry.capture, entry.probed = capture, entry.addresses
        entry.could_have_ebpf = False
        if await on_thread(self._backends.lacks_listener, netns, capture):
            await self._zds.repeat(entry.uid)
        choice = await on_thread(self._backends.enrol, netns, capture, entry.probed)
        entry.backend = choice.backend
        if choice.reason and before is not choice.backend:
            log.warning(
                Event.BACKEND_FELL_BACK,
                pod=entry.name,
                wanted=capture.wish,
                backend=choice.backend,
                reason=choice.reason,
                hint=choice.hint,
            )

    async def drain(self, netns: Netns, capture: Capture) -> None:
        """New connections go direct, what the tunnel carries goes on."""
        await on_thread(self._backends.drain, netns, capture.options)

    async def clear(self, netns: Netns) -> None:
        """Nothing of ours is left in the pod."""
        await on_thread(self._backends.clear, netns)

    def gone(self, netns: Netns | None) -> None:
        """The pod has ended. A few quick calls, at once, so that nobody comes in between."""
        if netns is not None:
            self._backends.gone(netns)

    async def keep(self, entries: Mapping[str, Entry], wake: Callable[[Entry], None]) -> None:
        """See to it, for ever, that pods have what they can have."""
        while True:
            await trio.sleep(LOOK_S)
            ready = await on_thread(self._backends.look)
            for entry in entries.values():
                if entry.netns is not None and entry.netns.key in ready:
                    entry.could_have_ebpf = True
                    wake(entry)

    def close(self) -> None:
        """Pods stay as they are."""
        self._backends.close()
