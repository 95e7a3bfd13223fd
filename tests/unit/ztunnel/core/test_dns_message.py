"""DNS on the wire: what is read from a query, what an answer looks like, what is believed."""

from ipaddress import ip_address

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import dns_packets
from ztunnel.core.dns_message import (
    REFUSED,
    SERVFAIL,
    MalformedError,
    address_reply,
    error_reply,
    fit,
    parse_query,
    read_reply,
)


def packed(name="api.shop", kind="A", edns=None, **header):
    query = DNSRecord.question(name, kind)
    query.header.id = 0x1234
    for field, value in header.items():
        setattr(query.header, field, value)
    if edns is not None:
        query.add_ar(EDNS0(**edns))
    return bytes(query.pack())


def test_a_query():
    query = parse_query(packed("API.shop.", "AAAA", edns={"udp_len": 1232}))
    assert (query.id, query.name, query.kind_name) == (0x1234, "api.shop", "aaaa")
    assert query.is_standard
    assert query.edns
    assert query.udp_bytes == 1232


@pytest.mark.parametrize(
    ("edns", "limit"), [(None, 512), ({"udp_len": 100}, 512), ({"udp_len": 4096}, 4096)]
)
def test_how_long_an_answer_over_udp_may_be(edns, limit):
    assert parse_query(packed(edns=edns)).udp_bytes == limit


HEAD = "12340100{:04x}00000000{:04x}"
QUESTION = "03617069000001 0001".replace(" ", "")


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        ("", None),
        ("123401000001", None),  # not even a header
        ("12348100000100000000000003617069000001 0001", None),  # a response: no answer, or a loop
        (HEAD.format(1, 0), RCODE.FORMERR),  # no question behind the header
        (HEAD.format(1, 0) + "03617069000001", RCODE.FORMERR),  # the question is cut off
        (HEAD.format(1, 0) + "0361", RCODE.FORMERR),  # and so is the name
        (HEAD.format(2, 0) + QUESTION * 2, RCODE.FORMERR),  # RFC 9619
        (HEAD.format(1, 0) + "c00c00010001", RCODE.FORMERR),  # a pointer to itself
        (HEAD.format(1, 0) + "c00000010001", RCODE.FORMERR),  # a pointer into the header
        (HEAD.format(1, 0) + "40" + "61" * 64 + "0000010001", RCODE.FORMERR),  # a label of 64
        (HEAD.format(1, 0) + ("3f" + "61" * 63) * 4 + "0000010001", RCODE.FORMERR),  # a name of 257
        (HEAD.format(1, 1) + QUESTION, RCODE.FORMERR),  # an additional record that is not there
        (HEAD.format(1, 1) + QUESTION + "000029ffff00000000ffff", RCODE.FORMERR),  # too short
        (HEAD.format(1, 2) + QUESTION + "0000291000000000000000" * 2, RCODE.FORMERR),  # EDNS twice
    ],
)
def test_what_cannot_be_read(data, rcode):
    raw = bytes.fromhex(data.replace(" ", ""))
    with pytest.raises(MalformedError) as caught:
        parse_query(raw)
    reply = caught.value.reply
    assert (None if reply is None else DNSRecord.parse(reply).header.rcode) == rcode


def test_a_long_chain_of_pointers_is_not_followed():
    chain = b"".join((0xC000 | 12 + 2 * n).to_bytes(2, "big") for n in range(8000))
    head = bytes.fromhex(HEAD.format(1, 1) + QUESTION)
    with pytest.raises(MalformedError):
        parse_query(head + chain)


def test_an_unknown_edns_version():
    with pytest.raises(MalformedError) as caught:
        parse_query(packed(edns={"udp_len": 1232, "version": 1}))
    reply = DNSRecord.parse(caught.value.reply)
    assert (reply.header.rcode, reply.ar[0].ttl >> 24) == (0, 1)  # BADVERS is 16


def test_names_that_are_no_host_names_are_passed_on():
    for label in (b"a.b", b"\xff\xfe"):
        data = packed("x")[:12] + bytes([len(label)]) + label + b"\x00\x00\x01\x00\x01"
        query = parse_query(data)
        assert query.name == ""
        assert query.question


def test_signed_queries_are_not_ours_to_answer():
    for kind in (24, 250):
        data = bytearray(packed())
        data[11] = 1  # one additional record
        data += b"\0" + kind.to_bytes(2, "big") + bytes.fromhex("00ff000000000000")
        query = parse_query(bytes(data))
        assert query.name == "api.shop"
        assert not query.is_standard


def test_an_answer():
    query = parse_query(packed("Api.Shop", edns={"udp_len": 1232}, cd=1))
    reply = DNSRecord.parse(
        address_reply(query, "", [ip_address("10.0.0.1"), ip_address("fd00::1")], 30, 512)
    )
    header = reply.header
    assert (header.id, header.aa, header.ra, header.rd, header.cd, header.tc) == (
        0x1234,
        *[1] * 4,
        0,
    )
    assert str(reply.q.qname) == "Api.Shop."  # as it was spelled, for clients that check (0x20)
    assert [(QTYPE[rr.rtype], str(rr.rdata), rr.ttl) for rr in reply.rr] == [
        ("A", "10.0.0.1", 30),
        ("AAAA", "fd00::1", 30),
    ]
    assert reply.ar[0].edns_ver == 0


def test_an_answer_by_an_alias():
    query = parse_query(packed("api.shop.shop.svc.cluster.local"))
    reply = DNSRecord.parse(address_reply(query, "api.shop", [ip_address("10.0.0.1")], 30, 512))
    assert [(str(rr.rname), QTYPE[rr.rtype], str(rr.rdata)) for rr in reply.rr] == [
        ("api.shop.shop.svc.cluster.local.", "CNAME", "api.shop."),
        ("api.shop.", "A", "10.0.0.1"),
    ]


def test_an_answer_that_does_not_fit_says_so_and_holds_what_fits():
    many = [ip_address(f"10.0.{n}.1") for n in range(200)]
    plain, large = parse_query(packed()), parse_query(packed(edns={"udp_len": 1232}))
    for query, limit in ((plain, 512), (large, 1232)):
        data = address_reply(query, "", many, 30, limit)
        reply = DNSRecord.parse(data)
        assert reply.header.tc
        assert limit - 16 < len(data) <= limit
    whole = DNSRecord.parse(address_reply(plain, "", many, 30, 65535))
    assert (whole.header.tc, len(whole.rr)) == (0, 200)


def test_no_address_is_no_error():
    reply = DNSRecord.parse(address_reply(parse_query(packed()), "", [], 30, 512))
    assert (reply.header.rcode, reply.header.aa, reply.rr) == (RCODE.NOERROR, 1, [])


def test_errors_keep_the_question():
    for rcode in (SERVFAIL, REFUSED):
        reply = DNSRecord.parse(error_reply(parse_query(packed()), rcode))
        assert (reply.header.rcode, reply.header.aa, str(reply.q.qname)) == (rcode, 0, "api.shop.")


QUERY = parse_query(packed("www.example.com"))


def answer(name="www.example.com", kind="A", number=7, **header):
    reply = DNSRecord.question(name, kind).reply()
    reply.add_answer(*RR.fromZone("www.example.com A 192.0.2.1"))
    for field, value in {"id": number, **header}.items():
        setattr(reply.header, field, value)
    return bytes(reply.pack())


def test_an_answer_of_another_resolver():
    read = read_reply(QUERY, 7, answer())
    assert (read.rcode, read.truncated, read.answers) == (0, False, 1)
    assert read_reply(QUERY, 7, answer("WWW.Example.COM")) is not None
    assert read_reply(QUERY, 7, answer(tc=1)).truncated


@pytest.mark.parametrize(
    "data",
    [
        b"",
        answer()[:11],
        answer(number=8),  # somebody guesses
        answer("www.example.org"),
        answer(kind="AAAA"),
        answer(qr=0),
        answer(opcode=5),
        bytes.fromhex("000781800000000000000000"),  # success, but for which question?
    ],
)
def test_what_is_no_answer_to_us(data):
    assert read_reply(QUERY, 7, data) is None


def test_an_error_may_come_without_the_question():
    assert read_reply(QUERY, 7, bytes.fromhex("000781850000000000000000")).rcode == REFUSED


def test_an_answer_is_passed_on_with_the_clients_number():
    data = answer()
    assert fit(QUERY, data, 512) == QUERY.raw[:2] + data[2:]
    cut = DNSRecord.parse(fit(QUERY, data + bytes(600), 512))
    assert (cut.header.id, cut.header.tc, cut.rr) == (0x1234, 1, [])
    assert str(cut.q.qname) == "www.example.com."


@given(st.binary(max_size=600))
def test_any_bytes(data):
    dns_packets.run(data)


@given(st.sampled_from(dns_packets.SEEDS[:6]), st.integers(0, 70), st.binary(max_size=24))
def test_damaged_queries(seed, at, noise):
    dns_packets.run(seed[:at] + noise + seed[at + len(noise) :])
