"""Any bytes as a DNS query, and as another resolver's answer to one."""

from __future__ import annotations

from ipaddress import ip_address

from dnslib import EDNS0, DNSError, DNSRecord

from ztunnel.core.dns_message import (
    SERVFAIL,
    MalformedError,
    address_reply,
    error_reply,
    fit,
    parse_query,
    read_reply,
)

ADDRESSES = [ip_address(f"10.0.{n}.1") for n in range(250)] + [ip_address("fd00::1")]


def _seeds():
    for name, kind in (("api.shop.svc.cluster.local", "A"), ("www.example.com", "AAAA")):
        plain = DNSRecord.question(name, kind)
        yield plain.pack()
        yield plain.reply().pack()
        extended = DNSRecord.question(name, kind)
        extended.add_ar(EDNS0(udp_len=1232))
        yield extended.pack()
    # compression: a pointer to itself, one into the header, a chain of pointers
    head = bytes.fromhex("000101000001000000000000")
    yield head + bytes.fromhex("c00c00010001")
    yield head + bytes.fromhex("c00000010001")
    chain = b"".join((0xC000 | 12 + 2 * n).to_bytes(2, "big") for n in range(4000))
    yield bytes.fromhex("000101000001000000000001") + b"\x01a\x00" + bytes(4) + chain


SEEDS = [bytes(seed) for seed in _seeds()]


def run(data):
    """Raises AssertionError, or whatever else should not happen."""
    try:
        query = parse_query(data)
    except MalformedError as error:
        if error.reply is not None:
            _check(error.reply, data)
        return
    assert query.question in data
    for alias in ("", "api.shop"):
        for limit in (512, query.udp_bytes, 65535):
            if query.name:
                reply = address_reply(query, alias, ADDRESSES, 30, limit)
                assert len(reply) <= max(limit, 512)
                parsed = _check(reply, data)
                records = len(ADDRESSES) + (alias not in ("", query.name))
                assert parsed.header.tc or len(parsed.rr) == records
    _check(error_reply(query, SERVFAIL), data)
    # The same bytes as an answer, to the query that they may contain.
    answer = data[:2] + bytes([data[2] | 0x80]) + data[3:]
    number = int.from_bytes(data[:2], "big")
    assert read_reply(query, number ^ 1, answer) is None
    assert read_reply(query, number, data) is None, "a query is no answer"
    if read_reply(query, number, answer) is not None:
        assert fit(query, answer, 65535) == answer
    assert len(fit(query, answer, 512)) <= 512


def _check(reply, data):
    """An answer to what was sent, and one that another implementation can read."""
    assert reply[:2] == data[:2]
    assert reply[2] & 0x80
    assert (reply[2] ^ data[2]) & 0x78 == 0
    try:
        return DNSRecord.parse(reply)
    except DNSError as error:
        # Labels of any bytes are legal (RFC 2181, 11); this reader takes only UTF-8.
        if "Invalid label" not in str(error):
            raise
        return None
