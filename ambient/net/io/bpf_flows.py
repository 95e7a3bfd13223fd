"""The tunnel's side of the eBPF redirection, where it is in use on the node.

Of TCP connections the tunnel learns the original destination as ever (SO_ORIGINAL_DST, which a
program answers). Two things it does itself, through maps that the node agent has pinned: it asks
where a datagram was going, and it names listeners that are older than the programs. Without the
maps neither is anything to do: then it is netfilter that redirects, or Istio's agent.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Final

from ambient.api.address import HostPort
from ambient.net.core import bpf_pods
from ambient.net.io.bpf import BPF_FS, NO_EXIST, Map
from ambient.net.io.netns import Netns

FOLDER: Final = f"{BPF_FS}/ambient"
"""Where the node agent pins what it makes."""
MAPS: Final = "maps-1"
"""Folder of the maps in it; another number where the form of one changes."""
LINKS: Final = "links"
"""Folder of the programs' links at the root of the cgroups, there once redirection is possible."""
POD_LINKS: Final = "pods"
"""Folder of the redirected pods' own links."""
SLOTS: Final = 4
"""Of redirect.c: how many tunnels may have listeners in a pod at the same time."""
SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h
_SO_COOKIE: Final = 57
_UDP: Final = 17


def netns_cookie(netns: Netns) -> int:
    """The kernel's number for a namespace, which no other one will ever have. Raises OSError."""
    return netns.run(_cookie_here)


def _cookie_here() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    return bpf_pods.cookie_of(raw)


def announce(netns: Netns, port: int, listener: socket.socket, folder: str = FOLDER) -> bool:
    """Have inbound connections of the pod given to this listener; whether there was a map for it.

    Listeners that are opened while the programs are there are noted without it.
    """
    try:
        with Map.pinned(f"{folder}/{MAPS}/listeners") as listeners:
            number = netns_cookie(netns)
            mine = listener.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
            keys = [bpf_pods.listener_key(number, port, slot) for slot in range(SLOTS)]
            present = [listeners.get(key) for key in keys]
            if mine not in present:
                free = keys[present.index(None)]
                listeners.put(free, struct.pack("=Q", listener.fileno()), NO_EXIST)
    except (OSError, ValueError):
        return False  # no map, no right to it, or no slot
    return True


class DatagramNotes:
    """Where redirected datagrams of one pod were going."""

    def __init__(self, netns: Netns, folder: str = FOLDER) -> None:
        self._folder = folder
        self._netns = netns
        self._originals: Map | None = None
        self._cookie = 0

    def original_destination(self, client: HostPort) -> HostPort | None:
        """Where ``client`` sent what reached us; None where nothing is known."""
        with suppress(OSError, ValueError, struct.error):
            if self._originals is None:
                self._cookie = netns_cookie(self._netns)
                self._originals = Map.pinned(f"{self._folder}/{MAPS}/originals")
            found = self._originals.get(bpf_pods.flow_key(self._cookie, _UDP, client))
            return None if found is None else bpf_pods.original(found)
        return None

    def close(self) -> None:
        """Harmless when repeated."""
        if self._originals is not None:
            self._originals.close()
            self._originals = None
