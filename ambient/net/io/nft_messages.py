"""nf_tables' messages: what is sent for each command of a change, and how lists are asked for.

Built from pyroute2's message classes. The kernel takes a batch of them as one transaction.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, assert_never

from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nf

from ambient.net.core.rule_diff import (
    AddChain,
    AddRule,
    AddSet,
    AddTable,
    Command,
    DeleteTable,
    DropElement,
    FlushChain,
    PutElement,
)
from ambient.net.core.rules import AddressSet, Element
from ambient.net.io.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, encoded
from ambient.net.io.nft_expressions import encode

HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
ACCEPT: Final = 1  # NF_ACCEPT as a chain's policy
ADDRESS_TYPES: Final = {4: 7, 6: 8}  # nft's type numbers of ipv4_addr and ipv6_addr
_ADDRESS_BYTES: Final = {4: 4, 6: 16}
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h
_INET: Final = 1  # NFPROTO_INET


@lru_cache(maxsize=64)
def batch(commands: tuple[Command, ...]) -> tuple[tuple[bytes, ...], tuple[Command | None, ...]]:
    """The messages of one transaction, encoded, and for each the command that it belongs to.

    Most pods get the same rules, and making the bytes takes longer than the kernel does.
    """
    messages: list[Any] = [_frame(_BATCH_BEGIN)]
    origins: list[Command | None] = [None]
    for command in commands:
        for message in _messages(command):
            messages.append(message)
            origins.append(command)
    # Refusals are told anyway. An acknowledgement of each of a few hundred messages would not fit
    # into the socket's receive buffer.
    messages[-1]["header"]["flags"] |= NLM_F_ACK
    messages.append(_frame(_BATCH_END))
    return tuple(map(encoded, messages)), (*origins, None)


def query(kind: Any, number: int, fields: dict[str, Any] | None = None) -> Any:
    """A question for a list; ``kind`` is the message class, ``number`` an NFT_MSG_GET*."""
    return _request(kind, number, fields or {}, flags=0)


def _frame(kind: int) -> Any:
    message = nfgen_msg()
    message["header"]["type"] = kind
    message["header"]["flags"] = 0
    message["res_id"] = _SUBSYSTEM
    return message


def _messages(command: Command) -> list[Any]:
    match command:
        case AddTable(table):
            return [_request(nf.nft_table_msg, nf.NFT_MSG_NEWTABLE, {"TABLE_NAME": table})]
        case DeleteTable(table):
            kind, fields = nf.nft_table_msg, {"TABLE_NAME": table}
            return [_request(kind, nf.NFT_MSG_DELTABLE, fields, flags=0)]
        case AddChain():
            return [_chain(command)]
        case FlushChain(table, name):
            fields = {"RULE_TABLE": table, "RULE_CHAIN": name}
            return [_request(nf.nft_rule_msg, nf.NFT_MSG_DELRULE, fields, flags=0)]
        case AddRule():
            return [_rule(command)]
        case AddSet(table, made):
            return [_set(table, made)]
        case PutElement(table, name, element):
            # Adding keeps the comment of an element that is there, and deleting one that is not
            # there fails; so all three, which come to the same in either case.
            bare = element._replace(comment="")
            add, delete = nf.NFT_MSG_NEWSETELEM, nf.NFT_MSG_DELSETELEM
            return [
                _element(table, name, bare, add),
                _element(table, name, bare, delete),
                _element(table, name, element, add),
            ]
        case DropElement(table, name, element):
            bare = element._replace(comment="")
            return [
                _element(table, name, bare, nf.NFT_MSG_NEWSETELEM),
                _element(table, name, bare, nf.NFT_MSG_DELSETELEM),
            ]
        case never:
            assert_never(never)


def _chain(command: AddChain) -> Any:
    chain = command.chain
    hook = {"HOOK_HOOKNUM": HOOKS[chain.hook], "HOOK_PRIORITY": chain.priority}
    fields = {
        "CHAIN_TABLE": command.table,
        "CHAIN_NAME": chain.name,
        "CHAIN_HOOK": _nested(hook),
        "CHAIN_POLICY": ACCEPT,
        "CHAIN_TYPE": chain.kind,
    }
    return _request(nf.nft_chain_msg, nf.NFT_MSG_NEWCHAIN, fields)


def _rule(command: AddRule) -> Any:
    fields = {
        "RULE_TABLE": command.table,
        "RULE_CHAIN": command.chain,
        "RULE_EXPRESSIONS": [encode(step) for step in command.rule.steps],
        "RULE_USERDATA": {"value": command.rule.comment},
    }
    flags = NLM_F_CREATE | NLM_F_APPEND
    return _request(nf.nft_rule_msg, nf.NFT_MSG_NEWRULE, fields, flags=flags)


def _set(table: str, made: AddressSet) -> Any:
    fields = {
        "SET_TABLE": table,
        "SET_NAME": made.name,
        "SET_KEY_TYPE": ADDRESS_TYPES[made.version],
        "SET_KEY_LEN": _ADDRESS_BYTES[made.version],
        "SET_ID": made.version,  # any number that no other set of the transaction has
    }
    return _request(nf.nft_set_msg, nf.NFT_MSG_NEWSET, fields)


def _element(table: str, name: str, element: Element, number: int) -> Any:
    attributes: list[tuple[str, Any]] = [
        ("NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", element.ip.packed)]})
    ]
    if element.comment:
        comment = [("NFTNL_UDATA_SET_ELEM_COMMENT", element.comment)]
        attributes.append(("NFTA_SET_ELEM_USERDATA", comment))
    fields = {
        "SET_ELEM_LIST_TABLE": table,
        "SET_ELEM_LIST_SET": name,
        "SET_ELEM_LIST_ELEMENTS": [{"attrs": attributes}],
    }
    flags = NLM_F_CREATE if number == nf.NFT_MSG_NEWSETELEM else 0
    return _request(nf.nft_set_elem_list_msg, number, fields, flags=flags)


def _request(kind: Any, number: int, fields: dict[str, Any], *, flags: int = NLM_F_CREATE) -> Any:
    message = kind()
    message["header"]["type"] = (_SUBSYSTEM << 8) | number
    message["header"]["flags"] = flags
    message["nfgen_family"] = _INET
    message["attrs"] = _nested(fields)["attrs"]
    return message


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    return {"attrs": [(f"NFTA_{name}", value) for name, value in fields.items()]}
