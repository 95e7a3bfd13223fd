"""Bring the rules of a network namespace to a wanted state, over netlink.

``apply`` reads what is there, sends the difference as one transaction and reads again, so applying
twice changes nothing. The only file that knows nf_tables' message format; the messages are
pyroute2's.
"""

from __future__ import annotations

import errno
from typing import Any, Final, assert_never

from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nf

from ambient.api.errors import MeshError
from ambient.net.core import rules
from ambient.net.core.rule_diff import (
    AddChain,
    AddRule,
    AddTable,
    Change,
    Command,
    DeleteTable,
    FlushChain,
    diff,
)
from ambient.net.core.rules import (
    Chain,
    Rule,
    Ruleset,
    Table,
)
from ambient.net.io import reply_routing
from ambient.net.io.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Netlink,
    NetlinkError,
)
from ambient.net.io.netns import Netns
from ambient.net.io.nft_expressions import decode, encode

_NETLINK_NETFILTER: Final = 12  # linux/netlink.h
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h
_INET: Final = 1  # NFPROTO_INET
_HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_ACCEPT: Final = 1  # NF_ACCEPT as a chain's policy

_MISSING: Final = frozenset(
    {errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}
)


def apply(netns: Netns, wanted: Ruleset) -> Change:
    """Make the namespace's rules the wanted ones; says what had to change.

    Raises MeshError where the kernel lacks a feature, forbids it, or keeps other rules than asked.
    """
    return netns.run(_apply_here, wanted)


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
    messages = [_batch(_BATCH_BEGIN), *(_message(each) for each in commands), _batch(_BATCH_END)]
    try:
        with Netlink(_NETLINK_NETFILTER) as netlink:
            netlink.send(messages)
    except OSError as error:
        position = error.position if isinstance(error, NetlinkError) else 0
        failed = commands[position - 1] if 0 < position <= len(commands) else None
        raise _explained(error, failed) from None


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


# Encoding: one message a command.


def _batch(kind: int) -> Any:
    message = nfgen_msg()
    message["header"]["type"] = kind
    message["header"]["flags"] = 0
    message["res_id"] = _SUBSYSTEM
    return message


def _message(command: Command) -> Any:
    match command:
        case AddTable(table):
            return _request(nf.nft_table_msg, nf.NFT_MSG_NEWTABLE, {"TABLE_NAME": table})
        case DeleteTable(table):
            return _request(nf.nft_table_msg, nf.NFT_MSG_DELTABLE, {"TABLE_NAME": table}, flags=0)
        case AddChain(table, chain):
            hook = {"HOOK_HOOKNUM": _HOOKS[chain.hook], "HOOK_PRIORITY": chain.priority}
            fields = {
                "CHAIN_TABLE": table,
                "CHAIN_NAME": chain.name,
                "CHAIN_HOOK": _nested(hook),
                "CHAIN_POLICY": _ACCEPT,
                "CHAIN_TYPE": chain.kind,
            }
            return _request(nf.nft_chain_msg, nf.NFT_MSG_NEWCHAIN, fields)
        case FlushChain(table, name):
            fields = {"RULE_TABLE": table, "RULE_CHAIN": name}
            return _request(nf.nft_rule_msg, nf.NFT_MSG_DELRULE, fields, flags=0)
        case AddRule(table, name, rule):
            fields = {
                "RULE_TABLE": table,
                "RULE_CHAIN": name,
                "RULE_EXPRESSIONS": [encode(step) for step in rule.steps],
                "RULE_USERDATA": {"value": rule.comment},
            }
            flags = NLM_F_CREATE | NLM_F_APPEND
            return _request(nf.nft_rule_msg, nf.NFT_MSG_NEWRULE, fields, flags=flags)
        case never:
            assert_never(never)


def _request(kind: Any, number: int, fields: dict[str, Any], *, flags: int = NLM_F_CREATE) -> Any:
    message = kind()
    message["header"]["type"] = (_SUBSYSTEM << 8) | number
    message["header"]["flags"] = NLM_F_ACK | flags
    message["nfgen_family"] = _INET
    message["attrs"] = _nested(fields)["attrs"]
    return message


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    return {"attrs": [(f"NFTA_{name}", value) for name, value in fields.items()]}


# Decoding: the exact reverse.


def _tables(netlink: Netlink) -> tuple[Table, ...]:
    listed = netlink.dump(_query(nf.nft_table_msg, nf.NFT_MSG_GETTABLE), nf.nft_table_msg)
    names = [message.get_attr("NFTA_TABLE_NAME") for message in listed]
    ours = [name for name in rules.TABLES if name in names]
    if not ours:
        return ()
    chains = netlink.dump(_query(nf.nft_chain_msg, nf.NFT_MSG_GETCHAIN), nf.nft_chain_msg)
    return tuple(
        Table(
            name,
            tuple(
                _chain(message, _rules(netlink, name))
                for message in chains
                if message.get_attr("NFTA_CHAIN_TABLE") == name
            ),
        )
        for name in ours
    )


def _query(kind: Any, number: int, fields: dict[str, Any] | None = None) -> Any:
    return _request(kind, number, fields or {}, flags=0)


def _chain(message: Any, table_rules: dict[str, list[Rule]]) -> Chain:
    name = message.get_attr("NFTA_CHAIN_NAME")
    found = tuple(table_rules.get(name, ()))
    hook = message.get_attr("NFTA_CHAIN_HOOK")
    if hook is None or message.get_attr("NFTA_CHAIN_POLICY") != _ACCEPT:
        return Chain(name, "", "", 0, found)  # a chain of somebody else's making
    number = hook.get_attr("NFTA_HOOK_HOOKNUM")
    names = {value: key for key, value in _HOOKS.items()}
    return Chain(
        name,
        message.get_attr("NFTA_CHAIN_TYPE"),
        names.get(number, ""),
        hook.get_attr("NFTA_HOOK_PRIORITY"),
        found,
    )


def _rules(netlink: Netlink, table: str) -> dict[str, list[Rule]]:
    query = _query(nf.nft_rule_msg, nf.NFT_MSG_GETRULE, {"RULE_TABLE": table})
    found: dict[str, list[Rule]] = {}
    for message in netlink.dump(query, nf.nft_rule_msg):
        if message.get_attr("NFTA_RULE_TABLE") != table:
            continue
        steps = message.get_attr("NFTA_RULE_EXPRESSIONS") or ()
        rule = Rule(
            message.get_attr("NFTA_RULE_USERDATA") or "",
            tuple(decode(step) for step in steps),
        )
        found.setdefault(message.get_attr("NFTA_RULE_CHAIN"), []).append(rule)
    return found
