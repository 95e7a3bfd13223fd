"""DNS messages on the wire: the only file that knows ``dnslib``.

Whatever a client sends is looked at here first, by a walk that follows no compression pointer, so
there is nothing to loop in; ``dnslib`` only sees what that walk has found well-formed. Answers of
other resolvers pass as the bytes that they are (RFC 5625): only their header and their question
are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSHeader, DNSLabel, DNSQuestion
from dnslib.label import DNSBuffer

from ambient.api.address import IPAddress

A_RECORD: Final = int(QTYPE.A)
AAAA_RECORD: Final = int(QTYPE.AAAA)
ZONE_TRANSFERS: Final = frozenset({QTYPE.IXFR, QTYPE.AXFR})
"""Questions whose answer may be many messages (RFC 5936, RFC 1995)."""

FORMERR: Final = int(RCODE.FORMERR)
SERVFAIL: Final = int(RCODE.SERVFAIL)
NOTIMP: Final = int(RCODE.NOTIMP)
REFUSED: Final = int(RCODE.REFUSED)
UNWILLING: Final = frozenset({SERVFAIL, NOTIMP, REFUSED})
"""Answers after which a resolver asks its next server."""
BADVERS: Final = 16
"""An EDNS version that we do not know (RFC 6891, 6.1.3); the OPT record holds its upper bits."""

MAX_BYTES: Final = 65535
"""Of a message over TCP, by its length prefix (RFC 1035, 4.2.2)."""
PLAIN_UDP_BYTES: Final = 512
"""Over UDP without EDNS (RFC 1035, 2.3.4); EDNS cannot ask for less (RFC 6891, 6.2.3)."""
UDP_BYTES: Final = 65507
"""What one UDP datagram over IPv4 can carry."""

_HEADER_BYTES: Final = 12
_IN: Final = 1
_OPT: Final = 41
_SIGNATURES: Final = (24, 250)  # SIG (RFC 2931), TSIG (RFC 8945)
_QUERY: Final = 0
_RESPONSE, _AUTHORITATIVE, _TRUNCATED = 0x8000, 0x0400, 0x0200
_OPCODE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x7800, 0x0100, 0x0080
_CHECKING_DISABLED: Final = 0x0010
_MAX_LABEL, _MAX_NAME = 63, 255
_RECORD_TAIL: Final = struct.Struct("!HHIH")  # type, class, TTL, length of the data
_FLAGS_AT, _COUNTS_AT = 2, 4
_COUNTS: Final = struct.Struct("!HHHH")


class MalformedError(Exception):
    """A message that cannot be answered as asked; ``reply`` is what to send, or None for nothing.

    Nothing is what responses get: answering them could make two servers talk for ever.
    """

    def __init__(self, reason: str, reply: bytes | None = None) -> None:
        super().__init__(reason)
        self.reply = reply


class Query(NamedTuple):
    """A query as it came, and what was read from it."""

    raw: bytes
    opcode: int
    question: bytes
    """The question section's bytes; empty where there is none."""
    name: str
    """Lower case, without the final dot; empty for the root and for names that are not ASCII."""
    kind: int
    """QTYPE; 0 without a question."""
    is_internet: bool
    signed: bool
    """By TSIG or SIG(0); whoever signs expects a signed answer."""
    edns: bool
    udp_bytes: int
    """The longest answer that the client takes over UDP."""

    @property
    def id(self) -> int:
        """The client's number for it."""
        return int.from_bytes(self.raw[:2], "big")

    @property
    def is_standard(self) -> bool:
        """An ordinary question, which may be about a name of the mesh."""
        return self.opcode == _QUERY and self.is_internet and not self.signed and self.kind > 0

    @property
    def kind_name(self) -> str:
        """``a``, ``aaaa``, ``srv``; ``unknown`` for types without a well-known name."""
        return str(QTYPE.forward.get(self.kind, "unknown")).lower()

    def with_id(self, number: int) -> bytes:
        """The query under another number."""
        return number.to_bytes(2, "big") + self.raw[2:]


class Reply(NamedTuple):
    """What was read from another resolver's answer."""

    rcode: int
    truncated: bool
    answers: int


def parse_query(data: bytes) -> Query:
    """Read a client's query. Raises MalformedError, and nothing else."""
    if len(data) < _HEADER_BYTES:
        raise MalformedError("shorter than a header")
    header = DNSHeader.parse(DNSBuffer(data[:_HEADER_BYTES]))
    if header.qr:
        raise MalformedError("a response where a query is expected")
    if header.q > 1:
        raise MalformedError("more than one question", _bare_error(data, FORMERR))
    try:
        end = _HEADER_BYTES
        labels: tuple[bytes, ...] = ()
        if header.q:
            labels, end = _plain_name(data, _HEADER_BYTES)
            end += 4
        if end > len(data):
            raise ValueError("the question is cut off")
        opt, signed = _extras(data, end, header.a + header.auth + header.ar)
    except ValueError as error:
        raise MalformedError(str(error), _bare_error(data, FORMERR)) from None
    kind, qclass = struct.unpack_from("!HH", data, end - 4) if header.q else (0, _IN)
    query = Query(
        raw=data,
        opcode=header.opcode,
        question=data[_HEADER_BYTES:end],
        name=_text(labels),
        kind=kind,
        is_internet=qclass == _IN,
        signed=signed,
        edns=opt is not None,
        udp_bytes=PLAIN_UDP_BYTES if opt is None else max(PLAIN_UDP_BYTES, opt[0]),
    )
    if opt is not None and opt[1]:
        raise MalformedError("unknown EDNS version", error_reply(query, BADVERS))
    return query


def error_reply(query: Query, rcode: int) -> bytes:
    """The query answered with an error."""
    return _assemble(query, rcode, 0, b"", 0)


def address_reply(
    query: Query, alias: str, addresses: Iterable[IPAddress], ttl_s: int, limit: int
) -> bytes:
    """An authoritative answer: records of ``alias`` (a CNAME leads there) or of the name asked for.

    As many records as fit into ``limit`` bytes; where that is not all, the answer says so (TC).
    """
    buffer = DNSBuffer(bytes(_HEADER_BYTES))
    buffer.offset = _HEADER_BYTES
    question = DNSBuffer(query.raw)
    question.offset = _HEADER_BYTES
    asked = DNSQuestion.parse(question)
    asked.pack(buffer)
    room = min(limit, MAX_BYTES) - (len(_opt_record(0)) if query.edns else 0)
    owner = DNSLabel(alias) if alias else asked.qname
    count, truncated = 0, False
    for record in _records(asked.qname, owner, addresses, ttl_s):
        before = len(buffer)
        record.pack(buffer)
        if len(buffer) > room:
            buffer, truncated = DNSBuffer(bytes(buffer.data[:before])), True
            break
        count += 1
    body = bytes(buffer.data[_HEADER_BYTES + len(query.question) :])
    flags = _AUTHORITATIVE | (_TRUNCATED if truncated else 0)
    return _assemble(query, 0, flags, body, count)


def read_reply(query: Query, number: int, data: bytes) -> Reply | None:
    """Another resolver's answer to ``query``, sent as ``number``; None where it is something else.

    The number and the question have to be ours, or somebody else has sent it.
    """
    if len(data) < _HEADER_BYTES or int.from_bytes(data[:2], "big") != number:
        return None
    header = DNSHeader.parse(DNSBuffer(data[:_HEADER_BYTES]))
    if not header.qr or header.opcode != query.opcode:
        return None
    if not _answers_question(query, data, header):
        return None
    return Reply(header.rcode, bool(header.tc), header.a)


def fit(query: Query, data: bytes, limit: int) -> bytes:
    """Another resolver's answer as the client gets it: its own number, and no longer than it takes.

    What is too long becomes an empty answer that says so (TC); the client asks again over TCP.
    """
    if len(data) <= limit:
        return query.raw[:2] + data[2:]
    (flags,) = struct.unpack_from("!H", data, _FLAGS_AT)
    return _assemble(query, flags & 0xF, flags & ~0xF | _TRUNCATED, b"", 0)


def frame(data: bytes) -> bytes:
    """As it travels over TCP: the length first."""
    return len(data).to_bytes(2, "big") + data


def _records(
    asked: DNSLabel, owner: DNSLabel, addresses: Iterable[IPAddress], ttl_s: int
) -> Iterable[RR]:
    if owner != asked:
        yield RR(asked, QTYPE.CNAME, ttl=ttl_s, rdata=CNAME(owner))
    for ip in addresses:
        if isinstance(ip, IPv4Address):
            yield RR(owner, QTYPE.A, ttl=ttl_s, rdata=A(tuple(ip.packed)))
        else:
            yield RR(owner, QTYPE.AAAA, ttl=ttl_s, rdata=AAAA(tuple(ip.packed)))


def _assemble(query: Query, rcode: int, flags: int, answers: bytes, count: int) -> bytes:
    """Header, question, answers, and an OPT record where the client sent one."""
    (asked,) = struct.unpack_from("!H", query.raw, _FLAGS_AT)
    flags |= _RESPONSE | _RECURSION_AVAILABLE | rcode & 0xF
    flags |= asked & (_OPCODE | _RECURSION_DESIRED | _CHECKING_DISABLED)
    opt = _opt_record(rcode) if query.edns else b""
    counts = _COUNTS.pack(bool(query.question), count, 0, bool(opt))
    return query.raw[:2] + flags.to_bytes(2, "big") + counts + query.question + answers + opt


def _bare_error(data: bytes, rcode: int) -> bytes:
    """An answer to what could not be read: only a header."""
    (asked,) = struct.unpack_from("!H", data, _FLAGS_AT)
    flags: int = _RESPONSE | asked & (_OPCODE | _RECURSION_DESIRED) | rcode
    return data[:2] + flags.to_bytes(2, "big") + bytes(8)


def _opt_record(rcode: int) -> bytes:
    """Our side of EDNS: we take datagrams of any length; version 0 (RFC 6891, 6.1.2)."""
    return b"\0" + _RECORD_TAIL.pack(_OPT, UDP_BYTES, rcode >> 4 << 24, 0)


def _answers_question(query: Query, data: bytes, header: DNSHeader) -> bool:
    if not query.question or header.q == 0:
        # Errors, answers to updates and cut answers may come without the question.
        return not query.question or bool(header.rcode or header.tc) or query.opcode != _QUERY
    end = _HEADER_BYTES + len(query.question)
    # Only letters differ in case: label lengths are below "A", and the type is compared exactly.
    name = slice(_HEADER_BYTES, end - 4)
    same_name = data[name].lower() == query.raw[name].lower()
    return same_name and data[end - 4 : end] == query.question[-4:]


def _plain_name(data: bytes, start: int) -> tuple[tuple[bytes, ...], int]:
    """The labels of a name without compression, and where it ends. Raises ValueError."""
    labels: list[bytes] = []
    at = start
    while True:
        if at >= len(data):
            raise ValueError("a name is cut off")
        length = data[at]
        at += 1
        if length == 0:
            break
        if length > _MAX_LABEL:
            raise ValueError("a compressed or unknown label in the question")
        labels.append(data[at : at + length])
        at += length
        if at - start >= _MAX_NAME:
            raise ValueError("a name is longer than 255 bytes")
    return tuple(labels), at


def _extras(data: bytes, start: int, count: int) -> tuple[tuple[int, int] | None, bool]:
    """UDP size and version of the OPT record among ``count`` records, and whether one of them is a
    signature. Raises ValueError.
    """
    found: tuple[int, int] | None = None
    signed = False
    at = start
    for _ in range(count):
        name_at = at
        at = _after_name(data, at)
        if at + _RECORD_TAIL.size > len(data):
            raise ValueError("a record is cut off")
        kind, size, ttl, length = _RECORD_TAIL.unpack_from(data, at)
        at += _RECORD_TAIL.size + length
        if at > len(data):
            raise ValueError("a record is cut off")
        signed = signed or kind in _SIGNATURES
        if kind == _OPT:
            if found is not None or data[name_at]:
                raise ValueError("EDNS twice, or of a name")
            found = size, ttl >> 16 & 0xFF
    return found, signed


def _after_name(data: bytes, start: int) -> int:
    """Where the name that starts here ends; a pointer ends it and is not followed."""
    at = start
    while at < len(data) and at - start < _MAX_NAME:
        length = data[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        if length > _MAX_LABEL:
            raise ValueError("an unknown label")
        at += 1 + length
    raise ValueError("a name is cut off or too long")


def _text(labels: Sequence[bytes]) -> str:
    """A host name; empty where a label could not be one (a dot inside, bytes that are no ASCII)."""
    if any(b"." in label or not label.isascii() for label in labels):
        return ""
    return b".".join(labels).decode("ascii").lower()
