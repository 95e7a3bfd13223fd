"""Find pods' network namespaces among the processes of the node.

For pods whose start the plugin did not see. A process counts for the pod that its cgroup names,
and only if its network namespace has an address of that pod: a debugging process of one pod that
sits in the namespace of another must not lend it the wrong identity.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from ambient.api.address import IPAddress, canonical
from ambient.net.io.netlink import Netlink
from ambient.net.io.netns import Netns
from cni_plugin.core.cgroup import pod_uid

_NETLINK_ROUTE = 0
_GETADDR = 22  # linux/rtnetlink.h: RTM_GETADDR
_START_TIME_FIELD = 19  # field 22 of /proc/PID/stat, counted from after the command's ")"


def find(proc_dir: str, wanted: Mapping[str, frozenset[IPAddress]]) -> dict[str, Netns]:
    """Namespaces by pod UID, for pods given with their addresses; the caller closes them.

    Of several namespaces of one pod, that of its oldest process. Pods that are not found are left
    out; processes that end meanwhile are passed over.
    """
    own = os.stat("/proc/self/ns/net")
    seen: dict[tuple[int, int], str] = {}
    found: dict[str, tuple[int, Netns]] = {}
    for process in Path(proc_dir).iterdir():
        if not process.name.isdigit():
            continue
        try:
            info = (process / "ns/net").stat()
            key = (info.st_dev, info.st_ino)
            if key == (own.st_dev, own.st_ino):
                continue
            uid = pod_uid((process / "cgroup").read_text())
            if uid is None or uid not in wanted or seen.get(key) == uid:
                continue
            started = _start_time((process / "stat").read_text())
            netns = Netns.open(process / "ns/net")
        except (OSError, ValueError):
            continue
        if not _owns(netns, wanted[uid]):
            netns.close()
            continue
        seen[key] = uid
        older = found.get(uid)
        if older is not None and older[0] <= started:
            netns.close()
            continue
        if older is not None:
            older[1].close()
        found[uid] = (started, netns)
    return {uid: netns for uid, (_, netns) in found.items()}


def addresses(netns: Netns) -> frozenset[IPAddress]:
    """The addresses of the namespace's interfaces. Raises OSError."""
    return netns.run(_addresses_here)


def _owns(netns: Netns, ips: frozenset[IPAddress]) -> bool:
    try:
        return bool(addresses(netns) & ips)
    except OSError:
        return False


def _addresses_here() -> frozenset[IPAddress]:
    query: Any = ifaddrmsg()
    query["header"]["type"] = _GETADDR
    query["family"] = socket.AF_UNSPEC
    with Netlink(_NETLINK_ROUTE) as netlink:
        answers: list[Any] = netlink.dump(query, ifaddrmsg)
    texts = [answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS") for answer in answers]
    return frozenset(canonical(ip_address(text)) for text in texts if text)


def _start_time(stat: str) -> int:
    """Clock ticks since boot. The command may contain anything, also spaces and brackets."""
    return int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])
