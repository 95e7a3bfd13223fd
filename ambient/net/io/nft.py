"""Bring the rules of a network namespace to a wanted state, over netlink.

``apply`` reads what is there, sends the difference as one transaction and reads again, so applying
twice changes nothing. What is sent is made by ``nft_messages``; here answers are read.
"""

from __future__ import annotations

import errno
from ipaddress import ip_address
from typing import Any, ClassVar, Final, assert_never

from pyroute2.netlink.nfnetlink import nftsocket as nf

from ambient.api.errors import MeshError
from ambient.net.core import rules
from ambient.net.core.rule_diff import (
    AddChain,
    AddRule,
    AddSet,
    AddTable,
    Change,
    Command,
    DeleteTable,
    DropElement,
    FlushChain,
    PutElement,
    diff,
)
from ambient.net.core.rules import (
    AddressSet,
    Chain,
    Element,
    Rule,
    Ruleset,
    Table,
)
from ambient.net.io import reply_routing
from ambient.net.io.netlink import Netlink, NetlinkError, attributes
from ambient.net.io.netns import Netns
from ambient.net.io.nft_expressions import decode
from ambient.net.io.nft_messages import ACCEPT, ADDRESS_TYPES, HOOKS, batch, query

_NETLINK_NETFILTER: Final = 12  # linux/netlink.h
_ATTRIBUTES_OFFSET: Final = 16 + 4  # after struct nlmsghdr and struct nfgenmsg
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 4, 7  # NFTA_RULE_*
_MAX_KNOWN: Final = 1024

_MISSING: Final = frozenset(
    {errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}
)


def apply(netns: Netns, wanted: Ruleset) -> Change:
    """Make the namespace's rules the wanted ones; says what had to change.

    Raises MeshError where the kernel lacks a feature, forbids it, or keeps other rules than asked.
    """
    return netns.run(_apply_here, wanted)


def perform(netns: Netns, change: Change) -> None:
    """Send the transaction of a change that the caller has worked out, without looking before or
    after. Raises MeshError, for example where the namespace has other rules than the caller thinks.
    """
    if change.commands:
        netns.run(_commit, change.commands)


def read(netns: Netns) -> Ruleset:
    """Our tables and routing in the namespace, as they are. Raises MeshError."""
    return netns.run(_read_here)


def _apply_here(wanted: Ruleset) -> Change:
    wanted = reply_routing.possible(wanted)
    change = diff(wanted, _read_here())
    if not change:
        return change
    # What replies need is there before the first redirect, and goes after the last one.
    reply_routing.add(change.add_routing)
    if change.commands:
        _commit(change.commands)
    reply_routing.remove(change.remove_routing)
    rest = diff(wanted, _read_here())
    if rest:
        raise MeshError(
            f"the kernel did not keep the redirect rules as they were sent: {rest}",
            hint="does another program edit the tables istio-ambient-*?",
        )
    return change


def _commit(commands: tuple[Command, ...]) -> None:
    messages, origins = batch(commands)
    try:
        with Netlink(_NETLINK_NETFILTER) as netlink:
            netlink.send_encoded(messages)
    except OSError as error:
        position = error.position if isinstance(error, NetlinkError) else 0
        raise _explained(error, origins[position]) from None


def _read_here() -> Ruleset:
    try:
        with Netlink(_NETLINK_NETFILTER) as netlink:
            tables = _tables(netlink)
    except OSError as error:
        raise _explained(error, None) from None
    return Ruleset(tables, reply_routing.present())


def _explained(error: OSError, command: Command | None) -> MeshError:
    """The kernel's refusal as one line with a remedy."""
    match command:
        case AddRule(table, chain, rule):
            what = f"rule {rule.comment!r} of {table} {chain}"
            needs = "CONFIG_NFT_CT and CONFIG_NFT_REDIR (modules nft_ct, nft_redir)"
        case AddChain(table, chain):
            what = f"chain {chain.name} of type {chain.kind} in {table}"
            needs = "CONFIG_NFT_NAT (module nft_chain_nat)"
        case AddSet(_, AddressSet(name)) | PutElement(_, name) | DropElement(_, name):
            what, needs = f"address set {name}", "CONFIG_NF_TABLES (its sets)"
        case AddTable(table) | DeleteTable(table) | FlushChain(table, _):
            what, needs = f"table {table}", "CONFIG_NF_TABLES_INET (module nf_tables)"
        case None:
            what, needs = "nftables", "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"
        case never:
            assert_never(never)
    if error.errno in _MISSING:
        return MeshError(f"the kernel has no support for {what}", hint=f"it needs {needs}")
    if error.errno in {errno.EPERM, errno.EACCES}:
        hint = "it needs CAP_NET_ADMIN over the pod's network namespace"
        return MeshError(f"not allowed to change {what}", hint=hint)
    return MeshError(f"{what}: {error.strerror or error}")


# Decoding: the exact reverse.


def _tables(netlink: Netlink) -> tuple[Table, ...]:
    listed = netlink.dump(query(nf.nft_table_msg, nf.NFT_MSG_GETTABLE), nf.nft_table_msg)
    names = [message.get_attr("NFTA_TABLE_NAME") for message in listed]
    ours = [name for name in rules.TABLES if name in names]
    if not ours:
        return ()
    chains = netlink.dump(query(nf.nft_chain_msg, nf.NFT_MSG_GETCHAIN), nf.nft_chain_msg)
    return tuple(
        Table(
            name,
            tuple(
                _chain(message, _rules(netlink, name))
                for message in chains
                if message.get_attr("NFTA_CHAIN_TABLE") == name
            ),
            _sets(netlink, name),
        )
        for name in ours
    )


def _chain(message: Any, table_rules: dict[str, list[Rule]]) -> Chain:
    name = message.get_attr("NFTA_CHAIN_NAME")
    found = tuple(table_rules.get(name, ()))
    hook = message.get_attr("NFTA_CHAIN_HOOK")
    if hook is None or message.get_attr("NFTA_CHAIN_POLICY") != ACCEPT:
        return Chain(name, "", "", 0, found)  # a chain of somebody else's making
    number = hook.get_attr("NFTA_HOOK_HOOKNUM")
    names = {value: key for key, value in HOOKS.items()}
    return Chain(
        name,
        message.get_attr("NFTA_CHAIN_TYPE"),
        names.get(number, ""),
        hook.get_attr("NFTA_HOOK_PRIORITY"),
        found,
    )


def _rules(netlink: Netlink, table: str) -> dict[str, list[Rule]]:
    question = query(nf.nft_rule_msg, nf.NFT_MSG_GETRULE, {"RULE_TABLE": table})
    found: dict[str, list[Rule]] = {}
    for message in netlink.dump(question, _RuleMessage):
        if message.table == table:
            found.setdefault(message.chain, []).append(message.rule())
    return found


class _RuleMessage:
    """A rule as it came; the same expressions are decoded once, since most pods have the same."""

    _known: ClassVar[dict[bytes, Rule]] = {}

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.table = self.chain = ""
        self._key = b""

    def decode(self) -> None:
        parts = attributes(self._body, _ATTRIBUTES_OFFSET)
        self.table, self.chain = (
            parts.get(kind, b"").rstrip(b"\0").decode() for kind in (_RULE_TABLE, _RULE_CHAIN)
        )
        self._key = parts.get(_RULE_EXPRESSIONS, b"") + parts.get(_RULE_USERDATA, b"")

    def rule(self) -> Rule:
        known = self._known.get(self._key)
        if known is None:
            message: Any = nf.nft_rule_msg(self._body)
            message.decode()
            steps = message.get_attr("NFTA_RULE_EXPRESSIONS") or ()
            comment = message.get_attr("NFTA_RULE_USERDATA") or ""
            known = Rule(comment, tuple(decode(step) for step in steps))
            if len(self._known) >= _MAX_KNOWN:  # counters make every busy rule another one
                self._known.clear()
            self._known[self._key] = known
        return known


def _sets(netlink: Netlink, table: str) -> tuple[AddressSet, ...]:
    """Named sets; those without a name belong to somebody's rules and are none of ours."""
    found = []
    question = query(nf.nft_set_msg, nf.NFT_MSG_GETSET, {"SET_TABLE": table})
    versions = {number: version for version, number in ADDRESS_TYPES.items()}
    for message in netlink.dump(question, nf.nft_set_msg):
        version = versions.get(message.get_attr("NFTA_SET_KEY_TYPE"))
        name = message.get_attr("NFTA_SET_NAME")
        if message.get_attr("NFTA_SET_TABLE") == table and not name.startswith("__"):
            elements = _elements(netlink, table, name) if version else frozenset()
            found.append(AddressSet(name, version or 0, elements))
    return tuple(found)


def _elements(netlink: Netlink, table: str, name: str) -> frozenset[Element]:
    fields = {"SET_ELEM_LIST_TABLE": table, "SET_ELEM_LIST_SET": name}
    question = query(nf.nft_set_elem_list_msg, nf.NFT_MSG_GETSETELEM, fields)
    found = set()
    for message in netlink.dump(question, nf.nft_set_elem_list_msg):
        for each in message.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS") or ():
            packed = bytes(each.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE"))
            found.add(Element(ip_address(packed), _comment(each)))
    return frozenset(found)


def _comment(element: Any) -> str:
    data = element.get_attr("NFTA_SET_ELEM_USERDATA")
    if not isinstance(data, list):
        return ""
    comments = (value for kind, value in data if kind == "NFTNL_UDATA_SET_ELEM_COMMENT")
    return bytes(next(comments, b"")).decode(errors="replace")
