"""Redirects pods by nftables or eBPF, and moves them from one to the other while they serve.

Everything here blocks, and is called on a worker thread. Whatever the backend, the route for
replies is the same; so what one of them has begun goes on under the other. Moving to eBPF leaves
the nat chains in the pod, without redirects, until the last connection that they translate has
ended; moving to nftables has nothing to wait for.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ambient.api.address import IPAddress
from ambient.api.errors import MeshError
from ambient.net.core import rules
from ambient.net.core.rules import Ruleset
from ambient.net.io import (
    bpf_programs,
    bpf_redirect,
    conntrack,
    net_settings,
    nft,
    tunnel_flows,
)
from ambient.net.io.bpf_flows import netns_cookie
from ambient.net.io.bpf_redirect import BpfRedirect, PodMaps
from ambient.net.io.netns import Netns
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core.backend import Backend, Capture, Choice, choose
from cni_plugin.settings import Settings

NO_LISTENER: Final = "ztunnel's listener in the pod is older than the eBPF programs"

_TCP_LOOSE: Final = "netfilter/nf_conntrack_tcp_loose"

log = get_logger("agent")


class _Held(NamedTuple):
    """A pod that eBPF redirects, or will when the tunnel's listener is known."""

    netns: Netns
    options: rules.Options
    leaving_nat: bool


class Redirection:
    """The node's backends; ``open`` first. Different pods may be worked on at the same time."""

    def __init__(self, settings: Settings) -> None:
        self._proc_dir = settings.proc_dir
        self._folder = settings.bpf_dir
        self.backend = Backend.NFTABLES
        """What redirects pods whose annotations say nothing else."""
        self._bpf: BpfRedirect | None = None
        self._maps: PodMaps | None = None
        self._unavailable: MeshError | None = None
        self._lock = threading.Lock()
        self._held: dict[tuple[int, int], _Held] = {}
        self._waiting: dict[tuple[int, int], Netns] = {}
        self._turns: defaultdict[tuple[int, int], threading.RLock] = defaultdict(threading.RLock)
        """A pod's rules are changed by one thread at a time."""

    def open(self, *, wanted: bool) -> None:
        """Take over what an earlier agent left; make the programs where they are wanted."""
        if wanted and self._open_bpf() is not None:
            self.backend = Backend.EBPF
        if self._maps is None and (maps := bpf_programs.open_maps(self._folder)) is not None:
            with suppress(OSError):
                self._maps = PodMaps(maps, Path(self._folder))

    def _open_bpf(self) -> BpfRedirect | None:
        """The eBPF backend, made when it is first asked for; None where the node cannot."""
        with self._lock:
            if self._bpf is not None or self._unavailable is not None:
                return self._bpf
            try:
                programs = bpf_programs.open_programs(self._proc_dir, self._folder)
                if self._maps is None:
                    self._maps = PodMaps(programs.maps, programs.folder)
                self._bpf = BpfRedirect(programs, self._maps)
            except (MeshError, OSError) as error:
                refused = error if isinstance(error, MeshError) else MeshError(str(error.strerror))
                self._unavailable = refused
                log.warning(Event.BPF_UNAVAILABLE, error=str(refused), hint=refused.hint)
                return None
            log.info(Event.BPF_READY, folder=self._folder, version=programs.version)
            return self._bpf

    def choice(self, capture: Capture) -> Choice:
        """What a pod would get."""
        if capture.wish == "nftables":
            return choose(capture, "")
        self._open_bpf()
        missing = self._unavailable
        return choose(capture, str(missing or ""), missing.hint if missing else "")

    def admit(self, netns: Netns, capture: Capture) -> None:
        """Before the tunnel listens in the pod: so that eBPF can be told where.

        Where that fails, ``enrol`` will say why.
        """
        if self.choice(capture).backend is Backend.EBPF or self._bpf is not None:
            assert self._bpf is not None  # or else the choice was another
            with suppress(OSError):
                self._bpf.admit(netns)

    def lacks_listener(self, netns: Netns, capture: Capture) -> bool:
        """Whether the tunnel has to be asked to name its listener."""
        if self.choice(capture).backend is not Backend.EBPF:
            return False
        assert self._maps is not None  # of the backend that was chosen
        with suppress(OSError):
            return not self._maps.has_listener(netns_cookie(netns))
        return False

    def enrol(self, netns: Netns, capture: Capture, addresses: Iterable[IPAddress]) -> Choice:
        """Redirect new connections; the tunnel listens already. Repeating it mends.

        Raises MeshError where no backend can do it.
        """
        with self._turns[netns.key]:
            return self._enrol(netns, capture, addresses)

    def _enrol(self, netns: Netns, capture: Capture, addresses: Iterable[IPAddress]) -> Choice:
        chosen = self.choice(capture)
        self._waiting.pop(netns.key, None)
        if chosen.backend is Backend.EBPF:
            assert self._bpf is not None  # or else the choice was another
            try:
                self._bpf.admit(netns)
                if self.lacks_listener(netns, capture):
                    self._waiting[netns.key] = netns
                    raise MeshError(NO_LISTENER, hint="eBPF begins when it is started again")
                self._enrol_bpf(netns, capture.options, addresses)
                return chosen
            except MeshError as error:
                chosen = Choice(Backend.NFTABLES, str(error), error.hint)
            except OSError as error:
                chosen = Choice(Backend.NFTABLES, error.strerror or str(error))
        if not nft.read(netns).tables:
            conntrack.forget_unwatched(netns)
        is_set = _take_up_old_connections(netns, False)
        nft.apply(netns, rules.enrolled(capture.options))
        if not is_set:  # the node's first rule brings the kernel's module, and the setting with it
            _take_up_old_connections(netns, False)
        self._held.pop(netns.key, None)
        if self._maps is not None:
            _change_maps(bpf_redirect.step_back, self._maps, netns)
        return chosen

    def _enrol_bpf(
        self, netns: Netns, options: rules.Options, addresses: Iterable[IPAddress]
    ) -> None:
        assert self._bpf is not None  # it was chosen
        present = nft.read(netns)
        routing = rules.routing(options)
        nft.apply(netns, Ruleset(present.tables, routing))
        self._bpf.enrol(netns, options, addresses)
        if present.tables:
            # From here on inbound connections too are no longer netfilter's.
            nft.apply(netns, rules.draining(options))
        self._held[netns.key] = _Held(netns, options, bool(present.tables))

    def drain(self, netns: Netns, options: rules.Options) -> None:
        """New connections go direct, what the tunnel carries goes on. Raises MeshError."""
        with self._turns[netns.key]:
            self._forget(netns)
            if self._maps is not None:
                _change_maps(bpf_redirect.drain, self._maps, netns)
            if nft.read(netns).tables:
                nft.apply(netns, rules.draining(options))

    def clear(self, netns: Netns) -> None:
        """Nothing of ours is left in the pod. Raises MeshError."""
        with self._turns[netns.key]:
            self._forget(netns)
            if self._maps is not None:
                _change_maps(bpf_redirect.clear, self._maps, netns)
            nft.apply(netns, rules.ABSENT)
            _take_up_old_connections(netns, True)
        self._turns.pop(netns.key, None)

    def present(self, netns: Netns) -> bool:
        """Whether anything of ours redirects, or drains, in the pod. Raises MeshError."""
        if nft.read(netns) != rules.ABSENT:
            return True
        value = None if self._maps is None else self._maps.read(netns_cookie(netns))
        return value is not None and value.flags != 0

    def gone(self, netns: Netns) -> None:
        """The pod has ended, and its namespace with it; harmless where it was not known."""
        self._forget(netns)
        self._turns.pop(netns.key, None)
        if self._maps is not None:
            with suppress(OSError, ValueError):
                self._maps.forget(netns_cookie(netns))

    def forget_strangers(self, alive: Iterable[Netns]) -> None:
        """Pods that were never redirected, only known, and ended while no agent was there."""
        if self._maps is None:
            return
        known = {netns_cookie(netns) for netns in alive}
        with suppress(OSError):
            for cookie in self._maps.cookies():
                value = self._maps.read(cookie)
                if cookie not in known and value is not None and not value.flags:
                    self._maps.forget(cookie)

    def look(self) -> list[tuple[int, int]]:
        """See to the pods that eBPF redirects; namespaces that could be among them from now on."""
        if self._maps is not None:
            with suppress(OSError):
                for cookie in self._maps.ended():
                    self._maps.forget(cookie)
        for key, held in list(self._held.items()):
            # A pod that ends is somebody else's.
            with self._turns[key], suppress(MeshError, OSError, ValueError):
                if self._held.get(key) is held:
                    self._look_at(key, held)
        ready = []
        for key, netns in list(self._waiting.items()):
            with suppress(OSError, ValueError):
                if self._maps is not None and self._maps.has_listener(netns_cookie(netns)):
                    ready.append(key)
        return ready

    def _look_at(self, key: tuple[int, int], held: _Held) -> None:
        assert self._maps is not None  # or nothing would be held
        cookie = netns_cookie(held.netns)
        own = bpf_redirect.own_networks(held.netns)
        if self._maps.read(cookie) is not None:
            self._maps.tell_own(cookie, own)
        if held.leaving_nat and not tunnel_flows.translated(held.netns):
            nft.apply(held.netns, Ruleset((), rules.routing(held.options)))
            self._held[key] = held._replace(leaving_nat=False)

    def _forget(self, netns: Netns) -> None:
        self._waiting.pop(netns.key, None)
        self._held.pop(netns.key, None)

    def close(self) -> None:
        """Let go of the maps; pods stay as they are."""
        if self._maps is not None:
            self._maps.close()


def _take_up_old_connections(netns: Netns, wanted: bool) -> bool:
    """Whether netfilter follows connections whose first packet it has not seen, as is its habit.

    It need not for what the rules do. Such a connection would have an entry without redirection,
    and so would the next one with the same addresses, until seconds after the last packet: it
    would be dropped as one that comes past the tunnel. False: it could
    not be set, and this remains.
    """
    try:
        net_settings.write(netns, {_TCP_LOOSE: b"1" if wanted else b"0"})
    except OSError:
        return False
    return True


def _change_maps(act: Callable[[PodMaps, Netns], None], maps: PodMaps, netns: Netns) -> None:
    try:
        act(maps, netns)
    except OSError as error:
        raise MeshError(f"the maps of the eBPF redirection: {error.strerror}") from None
