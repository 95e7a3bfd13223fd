"""The routing rule and route that bring replies to the tunnel, in the calling thread's namespace.

``ip rule fwmark 0x111/0xfff lookup 100`` and ``ip route local default dev lo table 100``, for each
IP version by itself: one that is missing in the kernel does not keep the other from working.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from ambient.api.errors import MeshError
from ambient.api.ports import MARK_MASK, REPLY_MARK
from ambient.net.core.rules import (
    REPLY_ROUTE_TABLE,
    REPLY_RULE_PRIORITY,
    ReplyRouting,
    Ruleset,
)
from ambient.net.io.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    NetlinkError,
)

_NETLINK_ROUTE: Final = 0
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26  # linux/rtnetlink.h
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_TO_TABLE: Final = 1  # FR_ACT_TO_TBL
_LOCAL, _SCOPE_HOST, _PROTOCOL_STATIC = 2, 254, 4  # RTN_LOCAL, RT_SCOPE_HOST, RTPROT_STATIC
_FAMILIES: Final[dict[Literal[4, 6], int]] = {4: socket.AF_INET, 6: socket.AF_INET6}
_TABLE_OFFSET: Final = 16 + 4  # after nlmsghdr: rtm_table of struct rtmsg, and of fib_rule_hdr
assert REPLY_ROUTE_TABLE < 256
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT})


def possible(wanted: Ruleset) -> Ruleset:
    """``wanted`` without IPv6 routing where this namespace has no IPv6."""
    if wanted.routing is None or _has_ipv6():
        return wanted
    routing = frozenset(each for each in wanted.routing if each.version == 4)
    return msgspec.structs.replace(wanted, routing=routing)


def _has_ipv6() -> bool:
    try:
        disabled = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").read_text().strip()
    except OSError:
        return False
    return disabled != "1"


def present() -> frozenset[ReplyRouting]:
    """What of it is there. Raises MeshError."""
    found = set()
    try:
        with Netlink(_NETLINK_ROUTE) as netlink:
            for version, family in _FAMILIES.items():
                query = _rule_message(_GETRULE, family)
                if any(
                    _is_ours(rule, family) for rule in netlink.dump(query, fibmsg, _in_our_table)
                ):
                    found.add(ReplyRouting("rule", version))
                query = _route_message(_GETROUTE, family)
                if any(
                    _is_reply_route(route, family)
                    for route in netlink.dump(query, rtmsg, _in_our_table)
                ):
                    found.add(ReplyRouting("route", version))
    except OSError as error:
        raise MeshError(f"cannot read the routing rules: {error.strerror or error}") from None
    return frozenset(found)


def add(halves: Iterable[ReplyRouting]) -> None:
    """Raises MeshError where the kernel refuses."""
    for half, version in sorted(halves):
        family = _FAMILIES[version]
        if half == "route":
            _send(_route_message(_NEWROUTE, family), NLM_F_CREATE | NLM_F_REPLACE, frozenset())
        else:
            present_already = frozenset({errno.EEXIST})
            _send(_rule_message(_NEWRULE, family), NLM_F_CREATE | NLM_F_EXCL, present_already)


def remove(halves: Iterable[ReplyRouting]) -> None:
    """What is gone already is fine. Raises MeshError where the kernel refuses."""
    for half, version in sorted(halves, reverse=True):
        family = _FAMILIES[version]
        if half == "route":
            _send(_route_message(_DELROUTE, family), 0, _GONE)
        else:
            _send(_rule_message(_DELRULE, family), 0, _GONE)


def _send(message: Any, flags: int, ignored: frozenset[int]) -> None:
    message["header"]["flags"] = NLM_F_ACK | flags
    try:
        with Netlink(_NETLINK_ROUTE) as netlink:
            netlink.send([message])
    except NetlinkError as error:
        if error.errno in ignored:
            return
        what = "rule" if isinstance(message, fibmsg) else "route"
        raise MeshError(
            f"the kernel refuses the routing {what} for replies to the tunnel: {error.strerror}",
            hint="it needs CONFIG_IP_MULTIPLE_TABLES (and CONFIG_IPV6_MULTIPLE_TABLES), and "
            "CAP_NET_ADMIN over the pod's network namespace",
        ) from None


def _rule_message(kind: int, family: int) -> Any:
    message = fibmsg()
    message["header"]["type"] = kind
    message["family"] = family
    if kind != _GETRULE:
        message["table"] = REPLY_ROUTE_TABLE
        message["action"] = _TO_TABLE
        message["attrs"] = [
            ("FRA_TABLE", REPLY_ROUTE_TABLE),
            ("FRA_PRIORITY", REPLY_RULE_PRIORITY),
            ("FRA_FWMARK", REPLY_MARK),
            ("FRA_FWMASK", MARK_MASK),
        ]
    return message


def _route_message(kind: int, family: int) -> Any:
    message = rtmsg()
    message["header"]["type"] = kind
    message["family"] = family
    if kind != _GETROUTE:
        message["table"] = REPLY_ROUTE_TABLE
        message["type"] = _LOCAL
        message["scope"] = _SCOPE_HOST
        message["proto"] = _PROTOCOL_STATIC
        message["attrs"] = [
            ("RTA_TABLE", REPLY_ROUTE_TABLE),
            ("RTA_OIF", socket.if_nametoindex("lo")),
        ]
    return message


def _in_our_table(body: bytes) -> bool:
    """By the fixed part of the message, which rules and routes begin with alike."""
    return body[_TABLE_OFFSET] == REPLY_ROUTE_TABLE


def _is_ours(rule: Any, family: int) -> bool:
    return bool(
        rule["family"] == family
        and rule.get_attr("FRA_TABLE") == REPLY_ROUTE_TABLE
        and rule.get_attr("FRA_FWMARK") == REPLY_MARK
        and rule.get_attr("FRA_FWMASK") == MARK_MASK
    )


def _is_reply_route(route: Any, family: int) -> bool:
    return bool(
        route["family"] == family
        and route.get_attr("RTA_TABLE") == REPLY_ROUTE_TABLE
        and route["type"] == _LOCAL
        and route["dst_len"] == 0
    )
