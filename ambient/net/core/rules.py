"""The rules of an enrolled pod's network namespace, as data.

Traffic of the application is redirected to the tunnel's listeners in the same namespace: outbound
to 15001, inbound to 15006 (HBONE on 15008 goes there by itself). Only the **first** packet of a
TCP connection is ever redirected. Connections that exist already have no first packet left, so
enrolling a pod leaves them alone, and dropping the redirects leaves tunnelled ones alone as long as
the nat chains themselves stay (the kernel keeps translating what it has begun to translate).

Three states: ``enrolled`` > ``draining`` (no redirects any more, everything that tunnelled
connections still need) > ``absent``. Applying is ``ambient.net.io.nft``, comparing is
``rule_diff``. Table names are Istio's, so that either implementation replaces the other's rules.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple

import msgspec

from ambient.api.ports import (
    DNS_PORT,
    FOREIGN_SOURCE_BIT,
    HBONE_PORT,
    MARK_MASK,
    OUTBOUND_PORT,
    PLAINTEXT_PORT,
    PROBE_SOURCE_V4,
    PROBE_SOURCE_V6,
    PROXY_MARK,
    REPLY_MARK,
)

MANGLE_TABLE: Final = "istio-ambient-mangle"
NAT_TABLE: Final = "istio-ambient-nat"
RAW_TABLE: Final = "istio-ambient-raw"
TABLES: Final = (MANGLE_TABLE, NAT_TABLE, RAW_TABLE)

REPLY_ROUTE_TABLE: Final = 100
"""Routing table whose one route says that everything is local (Istio's number)."""
REPLY_RULE_PRIORITY: Final = 32764
"""Just ahead of the main table (Istio's number)."""

# Priorities of linux/netfilter_ipv4.h: conntrack zones before conntrack (-200) sees the packet,
# marks before nat (-100) and before the routing decision that depends on them.
_RAW, _MANGLE, _DSTNAT = -300, -150, -100
_TCP, _UDP = 6, 17
_IPV4, _IPV6 = 2, 10  # NFPROTO_IPV4, NFPROTO_IPV6
_SYN, _FIRST_PACKET_MASK = 0x02, 0x17  # of fin|syn|rst|ack only syn is set
_DNS_ZONE: Final = 1
"""Conntrack zone of the tunnel's own DNS queries, which may share a tuple with captured ones."""
_FOREIGN_SOURCE_ZONE: Final = 2
"""That of connections in a client's name, whose port the client may use as well."""


class Expression(msgspec.Struct, frozen=True):
    """One step of a rule; all of them work on register 1."""


class Meta(Expression, frozen=True):
    """Load packet metadata, under nft's name for it."""

    key: Literal["mark", "iifname", "oifname", "nfproto", "l4proto", "skuid"]


class Ct(Expression, frozen=True):
    """Load a field of the packet's connection."""

    key: Literal["mark"]


class Payload(Expression, frozen=True):
    """Load header bytes; offset and length in bytes from the start of the header."""

    header: Literal["network", "transport"]
    offset: int
    length: int


class Bitwise(Expression, frozen=True):
    """register = (register & mask) ^ xor."""

    mask: bytes
    xor: bytes


class Compare(Expression, frozen=True):
    """Leave the rule unless the register is (``eq``), or is not (``neq``), these bytes."""

    op: Literal["eq", "neq"]
    data: bytes


class Load(Expression, frozen=True):
    """Load a constant."""

    data: bytes


class SetMeta(Expression, frozen=True):
    """Store the register as the packet's mark."""

    key: Literal["mark"]


class SetCt(Expression, frozen=True):
    """Store the register in the packet's connection."""

    key: Literal["mark", "zone"]
    direction: Literal["", "original"] = ""
    """A zone of packets in the direction of the first one only; the answers' is the default."""


class Redirect(Expression, frozen=True):
    """Send the connection to the port in the register, on this host."""


class Lookup(Expression, frozen=True):
    """Leave the rule unless the register is an element of this set of the same table."""

    set_name: str


class SourceNat(Expression, frozen=True):
    """Give the connection the source address in the register."""

    version: Literal[4, 6]


class Verdict(Expression, frozen=True):
    """End the chain for this packet."""

    code: Literal["accept", "drop"]


class Count(Expression, frozen=True):
    """Count packets and bytes; for the person who reads ``nft list ruleset``."""


class Foreign(Expression, frozen=True):
    """What somebody else put into our table; never wanted, so never equal to a wanted rule."""

    name: str


class Rule(msgspec.Struct, frozen=True):
    """One rule and what it is for; the comment is visible in ``nft list ruleset``."""

    comment: str
    steps: tuple[Expression, ...]


class Chain(msgspec.Struct, frozen=True):
    """A base chain; policy accept. ``hook`` is empty for a chain that no hook calls."""

    name: str
    kind: str  # filter | nat | route
    hook: str  # prerouting | input | forward | output | postrouting
    priority: int
    rules: tuple[Rule, ...] = ()


class Element(NamedTuple):
    """One address of a set, and whose it is."""

    ip: IPv4Address | IPv6Address
    comment: str


class AddressSet(msgspec.Struct, frozen=True):
    """A set of addresses of one IP version, which rules look into."""

    name: str
    version: int  # 4 or 6; 0 for a set of something else, which is never wanted
    elements: frozenset[Element] = frozenset()


class Table(msgspec.Struct, frozen=True):
    """A table of family inet: one set of chains for IPv4 and IPv6."""

    name: str
    chains: tuple[Chain, ...]
    sets: tuple[AddressSet, ...] = ()


class ReplyRouting(NamedTuple):
    """Half of what delivers packets marked ``REPLY_MARK`` to this host instead of their address.

    ``rule``: such packets look into table ``REPLY_ROUTE_TABLE``. ``route``: there everything is
    local.
    """

    half: Literal["rule", "route"]
    version: Literal[4, 6]


class Ruleset(msgspec.Struct, frozen=True):
    """All that we keep in one network namespace."""

    tables: tuple[Table, ...] = ()
    routing: frozenset[ReplyRouting] | None = frozenset()
    """None: not ours to look at, as in the node's own namespace."""


class Options(msgspec.Struct, frozen=True):
    """What may differ from pod to pod."""

    ipv6: bool = True
    inbound: bool = True
    """False: the pod takes its own inbound traffic (ambient.istio.io/bypass-inbound-capture)."""
    dns: bool = False
    """Capture DNS; the tunnel must listen on 15053."""
    virtual_interfaces: tuple[str, ...] = ()
    """Traffic that enters by these leaves the pod (istio.io/reroute-virtual-interfaces)."""


ABSENT: Final = Ruleset()


def enrolled(options: Options) -> Ruleset:
    """Everything that captures a pod's traffic."""
    chains = (
        Chain("prerouting", "nat", "prerouting", _DSTNAT, _nat_prerouting(options)),
        Chain("output", "nat", "output", _DSTNAT, _nat_output(options)),
    )
    tables = (_mangle(_input_guard(options)), Table(NAT_TABLE, chains), _raw(dns=options.dns))
    return Ruleset(tables, routing(options))


def draining(options: Options) -> Ruleset:
    """New connections go direct; what the tunnel still carries goes on.

    The nat chains are empty but present: without them the kernel would stop translating
    established connections. The marks and the reply route are what replies to the tunnel need.
    """
    chains = (
        Chain("prerouting", "nat", "prerouting", _DSTNAT),
        Chain("output", "nat", "output", _DSTNAT),
    )
    return Ruleset((_mangle(()), Table(NAT_TABLE, chains), _raw(dns=False)), routing(options))


def routing(options: Options) -> frozenset[ReplyRouting]:
    """What brings the application's replies to the tunnel."""
    versions: tuple[Literal[4, 6], ...] = (4, 6) if options.ipv6 else (4,)
    halves: tuple[Literal["rule", "route"], ...] = ("rule", "route")
    return frozenset(ReplyRouting(half, version) for half in halves for version in versions)


def _mangle(input_rules: tuple[Rule, ...]) -> Table:
    """Marks that bring the application's replies to the tunnel, and the guard.

    The tunnel dials the application from the client's own address, with ``PROXY_MARK``. Its first
    packet tags the connection; the application's replies get the tag back as a mark, and a routing
    rule delivers them here instead of sending them to the client.
    """
    keep_high_bits = (~MARK_MASK) & 0xFFFFFFFF
    tag = Rule(
        "connections that the tunnel opens to the application",
        (
            *mark_is("eq", PROXY_MARK),
            Ct("mark"),
            Bitwise(_u32(keep_high_bits), _u32(REPLY_MARK)),
            SetCt("mark"),
            Count(),
        ),
    )
    restore = Rule(
        "replies of such connections return to the tunnel",
        (
            Ct("mark"),
            Bitwise(_u32(MARK_MASK), _u32(0)),
            Compare("eq", _u32(REPLY_MARK)),
            Ct("mark"),
            SetMeta("mark"),
            Count(),
        ),
    )
    chains = [
        Chain("prerouting", "filter", "prerouting", _MANGLE, (tag,)),
        Chain("output", "route", "output", _MANGLE, (restore,)),
        Chain("input", "filter", "input", _MANGLE, input_rules),
    ]
    return Table(MANGLE_TABLE, tuple(chains))


def _input_guard(options: Options) -> tuple[Rule, ...]:
    """Fail closed: a first packet from outside that reached the application's port is dropped.

    Redirecting first packets only would leave a hole: a forged mid-stream packet makes the kernel
    take the connection for an old one, and the real first packet, arriving afterwards on the same
    ports, is then not looked at by the nat chains. Here its port tells: what was redirected has
    the tunnel's port by now.
    """
    if not options.inbound:
        return ()
    ours = [PLAINTEXT_PORT, HBONE_PORT]
    if options.virtual_interfaces:
        ours.append(OUTBOUND_PORT)
    guard = Rule(
        "nothing reaches the application past the tunnel",
        (
            *_interface("iifname", "neq", "lo"),
            *_family(options),
            *_protocol(_TCP),
            *_first_packet(),
            *(step for port in ours for step in _destination_port("neq", port)),
            Count(),
            Verdict("drop"),
        ),
    )
    return (*_probes(options), guard)


def _nat_prerouting(options: Options) -> tuple[Rule, ...]:
    rules = [
        Rule(
            f"outbound traffic of {name}",
            (
                *_interface("iifname", "eq", name),
                *_protocol(_TCP),
                *_first_packet(),
                *_redirect(OUTBOUND_PORT),
            ),
        )
        for name in options.virtual_interfaces
    ]
    if options.inbound:
        capture = (
            *_interface("iifname", "neq", "lo"),
            *_family(options),
            *_protocol(_TCP),
            *_first_packet(),
            *_destination_port("neq", HBONE_PORT),
            *mark_is("neq", PROXY_MARK),
            *_redirect(PLAINTEXT_PORT),
        )
        rules += _probes(options)
        rules.append(Rule("inbound traffic that is not HBONE", capture))
    return tuple(rules)


def _nat_output(options: Options) -> tuple[Rule, ...]:
    # Leaving by lo means: to localhost or to the pod's own address. Both stay direct.
    from_application = (
        *_interface("oifname", "neq", "lo"),
        *_family(options),
        *mark_is("neq", PROXY_MARK),
    )
    rules = []
    if options.dns:
        for protocol, first in ((_UDP, ()), (_TCP, _first_packet())):
            steps = (*from_application, *_protocol(protocol), *first)
            to_dns = (*steps, *_destination_port("eq", 53), *_redirect(DNS_PORT))
            rules.append(Rule("DNS queries", to_dns))
    capture = (*from_application, *_protocol(_TCP), *_first_packet(), *_redirect(OUTBOUND_PORT))
    rules.append(Rule("outbound traffic", capture))
    return tuple(rules)


def _raw(*, dns: bool) -> Table:
    """What keeps the tunnel's own packets apart from others with the same addresses and ports."""
    own, answers = [_foreign_source()], []
    if dns:
        zone = (Load(_u16(_DNS_ZONE)), SetCt("zone"), Count())
        port_53 = _destination_port("eq", 53)
        queries = (*_protocol(_UDP), *port_53, *mark_is("eq", PROXY_MARK), *zone)
        own.append(Rule("the tunnel's DNS queries", queries))
        steps = (*_protocol(_UDP), *_source_port(53), *mark_is("neq", PROXY_MARK), *zone)
        answers.append(Rule("answers to the tunnel's DNS queries", steps))
    chains = (
        Chain("prerouting", "filter", "prerouting", _RAW, tuple(answers)),
        Chain("output", "filter", "output", _RAW, tuple(own)),
    )
    return Table(RAW_TABLE, chains)


def _foreign_source() -> Rule:
    """The client's own connection was redirected, so that answers to the two have different ports;
    their first direction has the same ones and needs another zone. By a bit in the mark, as
    connections that began without it must go on without.
    """
    wanted, mask = PROXY_MARK | FOREIGN_SOURCE_BIT, MARK_MASK | FOREIGN_SOURCE_BIT
    return Rule(
        "connections to the application in its client's name",
        (
            *mark_is("eq", wanted, mask),
            *_protocol(_TCP),
            Load(_u16(_FOREIGN_SOURCE_ZONE)),
            SetCt("zone", "original"),
            Count(),
        ),
    )


def _probes(options: Options) -> list[Rule]:
    """Health probes carry an address that only the node itself can use; they skip the tunnel."""
    sources = (PROBE_SOURCE_V4, PROBE_SOURCE_V6) if options.ipv6 else (PROBE_SOURCE_V4,)
    return [
        Rule("health probes", (*_source(ip), *_protocol(_TCP), Count(), Verdict("accept")))
        for ip in sources
    ]


# Steps, each a few expressions. Ports and addresses are big-endian on the wire; marks, lengths and
# zones are in the host's order.

_HOST_ORDER: Final = sys.byteorder


def _u16(value: int) -> bytes:
    return value.to_bytes(2, _HOST_ORDER)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, _HOST_ORDER)


def mark_is(op: Literal["eq", "neq"], mark: int, mask: int = MARK_MASK) -> tuple[Expression, ...]:
    """Whether the packet's socket has this mark of ours."""
    return Meta("mark"), Bitwise(_u32(mask), _u32(0)), Compare(op, _u32(mark))


def _protocol(number: int) -> tuple[Expression, ...]:
    return Meta("l4proto"), Compare("eq", bytes([number]))


def _family(options: Options) -> tuple[Expression, ...]:
    """Nothing for both families; a test for IPv4 where IPv6 is left alone."""
    return () if options.ipv6 else (Meta("nfproto"), Compare("eq", bytes([_IPV4])))


def _first_packet() -> tuple[Expression, ...]:
    flags = Payload("transport", 13, 1)
    return flags, Bitwise(bytes([_FIRST_PACKET_MASK]), b"\0"), Compare("eq", bytes([_SYN]))


def _interface(
    key: Literal["iifname", "oifname"], op: Literal["eq", "neq"], name: str
) -> tuple[Expression, ...]:
    return Meta(key), Compare(op, name.encode().ljust(16, b"\0"))  # IFNAMSIZ


def _destination_port(op: Literal["eq", "neq"], port: int) -> tuple[Expression, ...]:
    return Payload("transport", 2, 2), Compare(op, port.to_bytes(2, "big"))


def _source_port(port: int) -> tuple[Expression, ...]:
    return Payload("transport", 0, 2), Compare("eq", port.to_bytes(2, "big"))


def _source(ip: IPv4Address | IPv6Address) -> tuple[Expression, ...]:
    number, offset = (_IPV4, 12) if ip.version == 4 else (_IPV6, 8)
    return (
        Meta("nfproto"),
        Compare("eq", bytes([number])),
        Payload("network", offset, len(ip.packed)),
        Compare("eq", ip.packed),
    )


def _redirect(port: int) -> tuple[Expression, ...]:
    return Count(), Load(port.to_bytes(2, "big")), Redirect()
