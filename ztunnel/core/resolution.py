"""Names of endpoints outside the cluster: questions to a resolver, its answers, and a cache.

These are names that the mesh state gives to workloads (a ServiceEntry with ``resolution: DNS``),
not questions of pods, which ``names`` answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from dnslib import QTYPE, RCODE, DNSError, DNSRecord
from dnslib.label import DNSLabelError

from ambient.api.address import HostPort, IPAddress, parse_ip

A_RECORD: Final = int(QTYPE.A)
AAAA_RECORD: Final = int(QTYPE.AAAA)
CAPACITY: Final = 4096  # ztunnel's cache has the same
SHORTEST_S: Final = 1.0
"""An answer with TTL 0 still serves the connections of one second."""
LONGEST_S: Final = 3600.0
UNKNOWN_S: Final = 5.0
"""How long a name without addresses is not asked for again."""
_DNS_PORT: Final = 53
_LONGEST_CHAIN: Final = 16
"""Aliases (CNAME) followed in one answer."""


class Answer(NamedTuple):
    """What one question brought."""

    addresses: tuple[IPAddress, ...]
    ttl_s: float
    truncated: bool = False
    """Too long for UDP: ask again over TCP."""


def nameservers(resolv_conf: str) -> list[HostPort]:
    """The servers that a ``resolv.conf`` names, in their order."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            ip = parse_ip(words[1].partition("%")[0])
            if ip is not None:
                found.append(HostPort(str(ip), _DNS_PORT))
    return found


def question(name: str, kind: int, number: int) -> bytes:
    """A recursive query. Raises ValueError for what cannot be a host name."""
    try:
        query = DNSRecord.question(name, QTYPE.get(kind))
        query.header.id = number
        return bytes(query.pack())
    except (DNSError, DNSLabelError, UnicodeError) as error:
        raise ValueError(f"{name!r} is no host name: {error}") from None


def read_answer(data: bytes, name: str, kind: int, number: int) -> Answer | None:
    """The addresses of ``name``, through its aliases; None where this is no answer to our question.

    Raises ValueError where the server cannot or will not say.
    """
    try:
        record = DNSRecord.parse(data)
    except (
        DNSError,
        DNSLabelError,
        RecursionError,
    ):  # the latter: a chain of thousands of pointers
        return None
    asked = [(_plain(q.qname), q.qtype) for q in record.questions]
    if record.header.id != number or not record.header.qr or asked != [(name.lower(), kind)]:
        return None
    if record.header.tc:
        return Answer((), 0.0, truncated=True)
    if record.header.rcode not in (RCODE.NOERROR, RCODE.NXDOMAIN):
        raise ValueError(f"the answer is {RCODE.get(record.header.rcode)}")
    aliases = {_plain(rr.rname): rr for rr in record.rr if rr.rtype == QTYPE.CNAME}
    owner, ttls = name.lower(), [LONGEST_S]
    for _ in range(_LONGEST_CHAIN):
        if owner not in aliases:
            break
        ttls.append(aliases[owner].ttl)
        owner = _plain(aliases[owner].rdata.label)
    records = [rr for rr in record.rr if rr.rtype == kind and _plain(rr.rname) == owner]
    addresses = [parse_ip(str(rr.rdata)) for rr in records]
    ttls += [rr.ttl for rr in records]
    return Answer(tuple(ip for ip in addresses if ip is not None), max(SHORTEST_S, min(ttls)))


def _plain(label: object) -> str:
    return str(label).rstrip(".").lower()


class _Entry(NamedTuple):
    addresses: tuple[IPAddress, ...]
    fresh_until_s: float


class Cache:
    """Addresses by name. Times are seconds of one steady clock, given by the caller."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: dict[str, _Entry] = {}

    def fresh(self, name: str, now_s: float) -> tuple[IPAddress, ...] | None:
        """What is known; None where it has to be asked for."""
        entry = self._entries.get(name)
        return entry.addresses if entry is not None and now_s < entry.fresh_until_s else None

    def stale(self, name: str) -> tuple[IPAddress, ...]:
        """What was known last: better than nothing while no server answers."""
        entry = self._entries.get(name)
        return entry.addresses if entry is not None else ()

    def put(self, name: str, answers: Iterable[Answer], now_s: float) -> tuple[IPAddress, ...]:
        """Take over the answers for both families; those without addresses do not shorten it."""
        addresses: tuple[IPAddress, ...] = ()
        ttl_s = math.inf
        for answer in answers:
            if answer.addresses:
                addresses += answer.addresses
                ttl_s = min(ttl_s, answer.ttl_s)
        self._entries.pop(name, None)
        if len(self._entries) >= self._capacity:
            del self._entries[next(iter(self._entries))]  # the one that was asked for longest ago
        self._entries[name] = _Entry(addresses, now_s + min(ttl_s, LONGEST_S, _limit(addresses)))
        return addresses


def _limit(addresses: tuple[IPAddress, ...]) -> float:
    return LONGEST_S if addresses else UNKNOWN_S
