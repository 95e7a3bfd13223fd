"""One pod's part of the eBPF redirection: its entries in the maps, and its ``sk_lookup`` program.

What is done is visible in BPF maps and pinned links only, so a new agent finds it, and none of it
touches a connection that exists: ``connect4`` and ``sk_lookup`` look at first packets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ambient.api.address import IPAddress
from ambient.api.ports import PLAINTEXT_PORT
from ambient.net.core import bpf_pods
from ambient.net.core.bpf_pods import Flag, Network, PodValue
from ambient.net.core.rules import Options
from ambient.net.io import net_settings
from ambient.net.io.bpf import AttachType, BpfError, Link, Map
from ambient.net.io.bpf_flows import POD_LINKS, SLOTS, netns_cookie
from ambient.net.io.bpf_programs import Programs
from ambient.net.io.netlink import Netlink
from ambient.net.io.netns import Netns

_NETLINK_ROUTE: Final = 0
_GETROUTE: Final = 26  # linux/rtnetlink.h
_TABLE_OFFSET: Final = 16 + 4
_LOCAL_TABLE, _LOCAL = 255, 2  # RT_TABLE_LOCAL, RTN_LOCAL
_FOLLOW_MARKS: Final = ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect")


class PodMaps:
    """The pods in the maps. Needs no compiler; what is there can be taken away with it."""

    def __init__(self, maps: dict[str, Map], folder: Path) -> None:
        self._maps = maps
        self._pods = maps["PODS"]
        self._own = maps["OWN"]
        self._listeners = maps["LISTENERS"]
        self.links: Final = folder / POD_LINKS
        self.links.mkdir(exist_ok=True)
        self._known: dict[int, set[bytes]] = {}
        for key in self._own.keys():  # noqa: SIM118 - a map of the kernel's, not a mapping
            self._known.setdefault(bpf_pods.owner_of(key), set()).add(key)

    def read(self, number: int) -> PodValue | None:
        """What is done in a pod; None where nothing is. Raises OSError."""
        data = self._pods.get(bpf_pods.pod_key(number))
        return None if data is None else PodValue.decode(data)

    def write(self, number: int, value: PodValue) -> None:
        """From now on this is done; existing connections stay as they are. Raises OSError."""
        self._pods.put(bpf_pods.pod_key(number), value.encode())

    def cookies(self) -> list[int]:
        """Every namespace that has an entry. Raises OSError."""
        keys = self._pods.keys()
        return [bpf_pods.cookie_of(key) for key in keys]

    def tell_own(self, number: int, own: Iterable[Network]) -> bool:
        """Destinations that are the pod itself; whether something was new. Raises OSError."""
        wanted = {bpf_pods.own_key(number, each) for each in own}
        known = self._known.get(number, set())
        if wanted == known:
            return False
        for key in wanted - known:
            self._own.put(key, bytes(4))
        for key in known - wanted:
            self._own.drop(key)
        self._known[number] = wanted
        return True

    def has_listener(self, number: int) -> bool:
        """Whether a tunnel's listener for inbound connections is known. Raises OSError."""
        keys = (bpf_pods.listener_key(number, PLAINTEXT_PORT, slot) for slot in range(SLOTS))
        return any(self._listeners.get(key) is not None for key in keys)

    def unlink(self, number: int) -> None:
        """New inbound connections go where they are addressed. Raises OSError."""
        for path in self.links.glob(f"{number}-*"):
            path.unlink()

    def ended(self) -> list[int]:
        """Pods whose namespace is gone, and that somebody should forget. Raises OSError."""
        found = []
        for path in self.links.iterdir():
            with Link.pinned(path) as link:
                if not link.netns_inode:
                    found.append(int(path.name.partition("-")[0]))
        return found

    def forget(self, number: int) -> None:
        """Nothing is left of the pod, dead or alive. Raises OSError."""
        self.unlink(number)
        self._pods.drop(bpf_pods.pod_key(number))
        self.tell_own(number, ())
        self._known.pop(number, None)

    def close(self) -> None:
        """Let go of the maps; pods stay redirected."""
        for each in self._maps.values():
            each.close()


class BpfRedirect:
    """Redirects pods by eBPF."""

    def __init__(self, programs: Programs, pods: PodMaps) -> None:
        self._programs = programs
        self.pods: Final = pods

    def admit(self, netns: Netns) -> None:
        """Note the tunnel's listeners as they are opened; redirect nothing yet. Raises OSError."""
        number = netns_cookie(netns)
        if self.pods.read(number) is None:
            self.pods.write(number, PodValue(bpf_pods.ADMITTED))

    def enrol(self, netns: Netns, options: Options, addresses: Iterable[IPAddress]) -> None:
        """Redirect new connections. The route for replies is the caller's affair.

        Repeating it puts right what has changed. Raises BpfError and OSError.
        """
        number = netns_cookie(netns)
        own = own_networks(netns)
        value = PodValue(bpf_pods.enrolled(options), *bpf_pods.sources(addresses, own))
        if self.pods.read(number) is None:
            self.pods.write(number, PodValue(bpf_pods.ADMITTED))
        follow_marks(netns, True)
        self.pods.tell_own(number, own)
        self._link(netns, number)
        self.pods.write(number, value)

    def _link(self, netns: Netns, number: int) -> None:
        path = self.pods.links / f"{number}-{self._programs.version}"
        if path.exists():
            return
        with self._programs.lookup_program(number) as program:
            for older in self.pods.links.glob(f"{number}-*"):
                with Link.pinned(older) as link:
                    link.replace(program)
                older.rename(path)
                return
            with Link.create(program, netns.fd, AttachType.SK_LOOKUP) as link:
                link.pin(path)


def drain(pods: PodMaps, netns: Netns) -> None:
    """New connections go direct; what the tunnel carries goes on. Raises OSError."""
    number = netns_cookie(netns)
    present = pods.read(number)
    if present is not None and is_capturing(present):
        pods.write(number, present._replace(flags=bpf_pods.DRAINING))
        pods.unlink(number)


def step_back(pods: PodMaps, netns: Netns) -> None:
    """Somebody else redirects the pod from now on, and is in place already. Raises OSError."""
    number = netns_cookie(netns)
    present = pods.read(number)
    if present is not None and present.flags != bpf_pods.ADMITTED:
        pods.write(number, present._replace(flags=bpf_pods.ADMITTED))
        pods.unlink(number)
        follow_marks(netns, False)


def clear(pods: PodMaps, netns: Netns) -> None:
    """As if the pod had never been redirected by eBPF. Raises OSError and BpfError."""
    number = netns_cookie(netns)
    present = pods.read(number)
    if present is not None:
        pods.forget(number)
        if present.flags != bpf_pods.ADMITTED:
            follow_marks(netns, False)


def is_capturing(value: PodValue | None) -> bool:
    """Whether new connections of the pod are redirected."""
    return value is not None and bool(value.flags & (Flag.OUTBOUND | Flag.INBOUND))


def own_networks(netns: Netns) -> list[Network]:
    """Every destination that the namespace delivers to itself. Raises OSError."""
    return netns.run(_own_here)


def _own_here() -> list[Network]:
    found: list[Network] = []
    with Netlink(_NETLINK_ROUTE) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            query: Any = rtmsg()
            query["header"]["type"] = _GETROUTE
            query["family"] = family
            for route in netlink.dump(query, rtmsg, _in_local_table):
                if route["type"] == _LOCAL:
                    found.append(_network(route))
    return found


def _network(route: Any) -> Network:
    length = route["dst_len"]
    if route["family"] == socket.AF_INET6:
        return IPv6Network((route.get_attr("RTA_DST") or "::", length))
    return IPv4Network((route.get_attr("RTA_DST") or "0.0.0.0", length))


def _in_local_table(body: bytes) -> bool:
    return body[_TABLE_OFFSET] == _LOCAL_TABLE


def follow_marks(netns: Netns, wanted: bool) -> None:
    """Whether answers have the mark of what they answer.

    The tunnel's connections to the application carry the mark for replies; by it the application's
    answers are routed back to the tunnel, whatever client's address it speaks from. A connection
    that is accepted takes the mark, and so does the kernel's own refusal. Raises BpfError.
    """
    value = b"1" if wanted else b"0"
    try:
        net_settings.write(netns, dict.fromkeys(_FOLLOW_MARKS, value))
    except OSError as error:
        raise BpfError(
            f"cannot set net.ipv4.tcp_fwmark_accept in the pod: {error.strerror}",
            hint="/proc/sys must be writable, or the agent allowed to mount proc (CAP_SYS_ADMIN)",
        ) from None
