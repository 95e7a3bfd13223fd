"""The rules of a node's own network namespace: health probes are told from other traffic.

A kubelet probes from the node's address, and so may forwarded traffic arrive; only probes may skip
the mesh, which under STRICT would refuse them. So connections that a process of the kubelet's user
opens *on the node* to a pod of the mesh get a source address that nobody else has, and that the
rules in the pod know. Forwarded packets belong to no process of the node, so they never match; and
what claims that address on its way through the node is dropped.

Set names and table name are Istio's; there as here an element's comment is the pod's UID.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from ambient.api.address import IPAddress
from ambient.api.ports import PROBE_SOURCE_V4, PROBE_SOURCE_V6, PROXY_MARK
from ambient.net.core.rules import (
    NAT_TABLE,
    AddressSet,
    Chain,
    Compare,
    Count,
    Element,
    Expression,
    Load,
    Lookup,
    Meta,
    Payload,
    Rule,
    Ruleset,
    SourceNat,
    Table,
    Verdict,
    mark_is,
)

SETS: Final[dict[Literal[4, 6], str]] = {4: "istio-inpod-probes-v4", 6: "istio-inpod-probes-v6"}

# Just ahead of the others at srcnat (100): the first chain that translates a connection decides,
# and network plugins masquerade there.
_BEFORE_SRCNAT: Final = 99
_FILTER: Final = 0
_TCP: Final = 6
_FAMILIES: Final = {4: 2, 6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6
_SOURCE_OFFSET: Final = {4: 12, 6: 8}  # RFC 791 section 3.1, RFC 8200 section 3
_DESTINATION_OFFSET: Final = {4: 16, 6: 24}
_PROBE_SOURCES: Final[dict[Literal[4, 6], bytes]] = {
    4: PROBE_SOURCE_V4.packed,
    6: PROBE_SOURCE_V6.packed,
}

ABSENT: Final = Ruleset(routing=None)
"""Nothing of ours; the node's routing is not ours in any case."""


def present(kubelet_uid: int, probed: Mapping[IPAddress, str], *, ipv6: bool) -> Ruleset:
    """Rules and sets for these pods: address to pod UID."""
    versions: tuple[Literal[4, 6], ...] = (4, 6) if ipv6 else (4,)
    table = Table(
        NAT_TABLE,
        (
            Chain(
                "postrouting",
                "nat",
                "postrouting",
                _BEFORE_SRCNAT,
                tuple(_probe(kubelet_uid, version) for version in versions),
            ),
            Chain(
                "forward", "filter", "forward", _FILTER, tuple(_forged(each) for each in versions)
            ),
        ),
        tuple(
            AddressSet(SETS[version], version, frozenset(_elements(probed, version)))
            for version in versions
        ),
    )
    return Ruleset((table,), routing=None)


def probed(ruleset: Ruleset) -> dict[IPAddress, str]:
    """The elements of the sets: address to pod UID."""
    return {
        element.ip: element.comment
        for table in ruleset.tables
        for each in table.sets
        if each.name in SETS.values()
        for element in each.elements
    }


def _elements(probed: Mapping[IPAddress, str], version: int) -> Iterable[Element]:
    return (Element(ip, uid) for ip, uid in probed.items() if ip.version == version)


def _probe(kubelet_uid: int, version: Literal[4, 6]) -> Rule:
    source = _PROBE_SOURCES[version]
    steps: tuple[Expression, ...] = (
        Meta("nfproto"),
        Compare("eq", bytes([_FAMILIES[version]])),
        Meta("l4proto"),
        Compare("eq", bytes([_TCP])),
        Meta("skuid"),  # leaves the rule for packets of no local socket
        Compare("eq", kubelet_uid.to_bytes(4, sys.byteorder)),
        *mark_is("neq", PROXY_MARK),  # a tunnel that serves the node's own network is no kubelet
        Payload("network", _DESTINATION_OFFSET[version], len(source)),
        Lookup(SETS[version]),
        Count(),
        Load(source),
        SourceNat(version),
    )
    return Rule("health probes of pods in the mesh", steps)


def _forged(version: Literal[4, 6]) -> Rule:
    source = _PROBE_SOURCES[version]
    steps: tuple[Expression, ...] = (
        Meta("nfproto"),
        Compare("eq", bytes([_FAMILIES[version]])),
        Payload("network", _SOURCE_OFFSET[version], len(source)),
        Compare("eq", source),
        Count(),
        Verdict("drop"),
    )
    return Rule("the address of health probes, but not from this node", steps)
