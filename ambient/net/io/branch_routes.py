"""The node's policy of routing, read and changed; ``ambient.net.core.branch_routes`` says why."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final, Literal

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ambient.api.address import IPAddress
from ambient.api.errors import MeshError
from ambient.net.core.branch_routes import (
    LOCAL_TABLE,
    MAIN_TABLE,
    Change,
    HostRoute,
    PolicyRule,
    change,
)
from ambient.net.io import net_settings
from ambient.net.io.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError
from ambient.net.io.netns import Netns

EARLY_DEMUX: Final = "ipv4/tcp_early_demux"
"""0 on every node with such pods, as Amazon prescribes; nothing is looked for on any other."""

_NETLINK_ROUTE: Final = 0
_GETROUTE: Final = 26  # linux/rtnetlink.h
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_TO_TABLE: Final = 1  # FR_ACT_TO_TBL
_COMPAT_TABLE: Final = 252  # RT_TABLE_COMPAT: the number does not fit, and is an attribute
_TABLE_OFFSET: Final = 16 + 4  # after nlmsghdr: rtm_table of struct rtmsg
_FAMILIES: Final[dict[Literal[4, 6], int]] = {4: socket.AF_INET, 6: socket.AF_INET6}


def keep(netns: Netns, probed: Iterable[IPAddress]) -> Change:
    """Have probes of these addresses stay on the node; what had to change. Raises MeshError."""
    return netns.run(_keep_here, frozenset(probed))


def present(netns: Netns) -> list[str]:
    """Our rules, for people. Raises MeshError."""
    ours = netns.run(_read_here, frozenset()).remove
    return [f"to {rule.to}" if rule.to else f"iif {rule.device}" for rule in sorted(ours, key=str)]


def _keep_here(probed: frozenset[IPAddress]) -> Change:
    if not _is_possible():
        probed = frozenset()
    needed = _read_here(probed)
    for rule in needed.add:
        _send(_message(_NEWRULE, rule), NLM_F_CREATE | NLM_F_EXCL, {errno.EEXIST})
    for rule in needed.remove:
        _send(_message(_DELRULE, rule), 0, {errno.ENOENT, errno.ESRCH})
    return needed


def _is_possible() -> bool:
    try:
        return net_settings.read_here(EARLY_DEMUX) == b"0"
    except OSError:
        return False


def _read_here(probed: frozenset[IPAddress]) -> Change:
    rules: list[PolicyRule] = []
    routes: list[HostRoute] = []
    try:
        with Netlink(_NETLINK_ROUTE) as netlink:
            for version, family in _FAMILIES.items():
                query = fibmsg()
                query["header"]["type"], query["family"] = _GETRULE, family
                for rule in netlink.dump(query, fibmsg):
                    if rule["family"] == family:
                        rules.append(_rule(rule, version))
            if probed:
                names = dict(socket.if_nameindex())
                for family in _FAMILIES.values():
                    query = rtmsg()
                    query["header"]["type"], query["family"] = _GETROUTE, family
                    for route in netlink.dump(query, rtmsg, _in_another_table):
                        routes += _host_route(route, names)
    except OSError as error:
        raise MeshError(f"cannot read the node's routing: {error.strerror or error}") from None
    return change(rules, routes, probed)


def _in_another_table(body: bytes) -> bool:
    return body[_TABLE_OFFSET] not in (MAIN_TABLE, LOCAL_TABLE)


def _rule(message: Any, version: Literal[4, 6]) -> PolicyRule:
    to = message.get_attr("FRA_DST")
    whole = message["dst_len"] == (32 if version == 4 else 128)
    return PolicyRule(
        version,
        message.get_attr("FRA_PRIORITY") or 0,
        message.get_attr("FRA_TABLE") or message["table"],
        message.get_attr("FRA_IIFNAME") or "",
        ip_address(to) if to and whole else None,
        message.get_attr("FRA_PROTOCOL") or 0,
    )


def _host_route(message: Any, names: dict[int, str]) -> list[HostRoute]:
    to, device = message.get_attr("RTA_DST"), names.get(message.get_attr("RTA_OIF") or 0)
    whole = message["dst_len"] == (32 if message["family"] == socket.AF_INET else 128)
    if to is None or device is None or not whole:
        return []
    return [HostRoute(ip_address(to), message.get_attr("RTA_TABLE") or message["table"], device)]


def _message(kind: int, rule: PolicyRule) -> Any:
    message = fibmsg()
    message["header"]["type"] = kind
    message["family"] = _FAMILIES[rule.version]
    message["table"] = rule.table if rule.table < 256 else _COMPAT_TABLE
    message["action"] = _TO_TABLE
    attributes: list[tuple[str, Any]] = [
        ("FRA_TABLE", rule.table),
        ("FRA_PRIORITY", rule.priority),
        ("FRA_PROTOCOL", rule.protocol),
    ]
    if rule.to is not None:
        message["dst_len"] = rule.to.max_prefixlen
        attributes.append(("FRA_DST", str(rule.to)))
    if rule.device:
        attributes.append(("FRA_IIFNAME", rule.device))
    message["attrs"] = attributes
    return message


def _send(message: Any, flags: int, ignored: set[int]) -> None:
    message["header"]["flags"] = NLM_F_ACK | flags
    try:
        with Netlink(_NETLINK_ROUTE) as netlink:
            netlink.send([message])
    except NetlinkError as error:
        if error.errno not in ignored:
            raise MeshError(
                f"the kernel refuses a routing rule for health probes: {error.strerror}",
                hint="it needs CAP_NET_ADMIN over the node's network namespace",
            ) from None
