"""The eBPF redirection of one control group (a systemd unit) in the node's own network.

What the programs of ``redirect.c`` do to a pod they do here to a group: the same ``connect`` and
``sendmsg`` programs, with another map in the place of ``PODS``, are attached to the group itself,
so nobody else in that network is redirected. The rest (the note of the original destination, its
answer, the address that the application is shown) is done by the node's programs for every socket
that these have redirected.

Only what the group sends can be told from the rest. What comes in for it is nobody's affair here:
``sk_lookup`` knows no groups. The tunnel listens in the node's network all the same, so its ports
are refused to everybody but the node.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from ambient.api.ports import DNS_PORT, OUTBOUND_PORT
from ambient.net.core import bpf_pods
from ambient.net.core.bpf_code import bind
from ambient.net.core.bpf_pods import Flag, PodValue
from ambient.net.core.rules import Options
from ambient.net.io import bpf_programs, sock_diag
from ambient.net.io.bpf import AttachType, Map, Program, ProgramType
from ambient.net.io.bpf_flows import netns_cookie
from ambient.net.io.bpf_programs import GUARD
from ambient.net.io.bpf_redirect import PodMaps, own_networks
from ambient.net.io.netns import Netns

_PROGRAMS: Final = {
    "sendmsg4": AttachType.SENDMSG4,
    "sendmsg6": AttachType.SENDMSG6,
    "connect4": AttachType.CONNECT4,
    "connect6": AttachType.CONNECT6,
}
# Not the node's address: kubelet's firewall rules drop packets from it to the loopback network.
_SOURCES: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_OPEN: Final = sock_diag.ALL & ~(sock_diag.TIME_WAIT | sock_diag.CLOSED | sock_diag.LISTENING)


class UnitCapture:
    """The programs for a node's one unit. Everything is pinned and outlives the agent."""

    def __init__(self, programs: bpf_programs.Programs, stack: ExitStack) -> None:
        self._stack = stack
        self._maps: Final = PodMaps(programs.maps, programs.folder)
        stack.callback(self._maps.close)
        self._folder: Final = programs.folder / "unit"
        self._folder.mkdir(exist_ok=True)
        self._units = self._open_map()
        bindings = bpf_programs.bindings({**programs.maps, "PODS": self._units})
        self._programs: Final = {
            name: stack.enter_context(
                Program.load(
                    ProgramType.CGROUP_SOCK_ADDR,
                    f"unit_{name}",
                    bind(programs.code[name], bindings),
                    kind,
                )
            )
            for name, kind in _PROGRAMS.items()
        }
        guard = programs.code[GUARD]
        self._guarding: Final = stack.enter_context(
            Program.load(ProgramType.SK_LOOKUP, GUARD, guard, AttachType.SK_LOOKUP)
        )

    @classmethod
    def open(cls, proc_dir: str, folder: str) -> UnitCapture:
        """Blocks for about a second, for the compiler. Raises BpfError, MeshError, OSError."""
        stack = ExitStack()
        try:
            return cls(bpf_programs.open_programs(proc_dir, folder), stack)
        except BaseException:
            stack.close()
            raise

    def _open_map(self) -> Map:
        path = self._folder / "units"
        try:
            made = Map.pinned(path)
        except FileNotFoundError:
            made = bpf_programs.make_map("PODS")
            made.pin(path)
        return self._stack.enter_context(made)

    def enrol(self, netns: Netns, group: str, options: Options) -> None:
        """Redirect what the group opens from now on; the tunnel listens already.

        Repeating it puts right what has changed: the group may have been made anew. Raises
        BpfError, OSError; FileNotFoundError where there is no such group at present.
        """
        number = netns_cookie(netns)
        self._guard(netns)
        self._maps.tell_own(number, own_networks(netns))
        flags = bpf_pods.enrolled(options) & (Flag.OUTBOUND | Flag.DNS | Flag.IPV6)
        self._units.put(bpf_pods.pod_key(number), PodValue(flags, *_SOURCES).encode())
        self._attach(group)

    def _attach(self, group: str) -> None:
        fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mine = f"{os.fstat(fd).st_ino}-"
            for path in self._links():
                if not path.name.startswith(mine):
                    path.unlink()  # of a group that is no more
            for name, kind in _PROGRAMS.items():
                # Never two of a kind in a place: the second would undo what the first did.
                path = self._folder / f"{mine}{name}"
                bpf_programs.put_in(path, self._programs[name], fd, kind)
        finally:
            os.close(fd)

    def _guard(self, netns: Netns) -> None:
        place = AttachType.SK_LOOKUP
        bpf_programs.put_in(self._folder / GUARD, self._guarding, netns.fd, place)

    def _links(self) -> list[Path]:
        return [each for name in _PROGRAMS for each in self._folder.glob(f"*-{name}")]

    def drain(self) -> None:
        """What the group opens from now on is direct; what the tunnel carries goes on."""
        for path in self._links():
            path.unlink()

    def clear(self, netns: Netns) -> None:
        """The tunnel has left the node's network: nothing is to be guarded. Raises OSError."""
        self.drain()
        number = netns_cookie(netns)
        self._units.drop(bpf_pods.pod_key(number))
        self._maps.tell_own(number, ())
        (self._folder / GUARD).unlink(missing_ok=True)

    def close(self) -> None:
        """The unit stays redirected."""
        self._stack.close()


def carried(netns: Netns) -> int:
    """Connections of the unit in the tunnel, not closed yet. Raises OSError."""
    found = netns.run(sock_diag.sockets, _OPEN)
    return sum(one.source_port in (OUTBOUND_PORT, DNS_PORT) for one in found)
