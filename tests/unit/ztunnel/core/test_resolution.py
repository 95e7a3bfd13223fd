"""Names of endpoints: questions, answers, and how long an answer is good for."""

from contextlib import suppress
from ipaddress import ip_address

import pytest
from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from ztunnel.core.resolution import (
    A_RECORD,
    AAAA_RECORD,
    Answer,
    Cache,
    nameservers,
    question,
    read_answer,
)

NAME = "db.example"
ONE, TWO = ip_address("192.0.2.1"), ip_address("2001:db8::1")


def reply(*records, kind=A_RECORD, number=7, **header):
    answer = DNSRecord.parse(question(NAME, kind, number)).reply()
    for name, ttl, rdata in records:
        answer.add_answer(RR(name, QTYPE.reverse[type(rdata).__name__], ttl=ttl, rdata=rdata))
    for field, value in header.items():
        setattr(answer.header, field, value)
    return bytes(answer.pack())


def read(data, kind=A_RECORD, name=NAME, number=7):
    return read_answer(data, name, kind, number)


def test_addresses_and_the_shortest_ttl():
    assert read(reply((NAME, 60, A("192.0.2.1")), (NAME, 30, A("192.0.2.2")))) == Answer(
        (ONE, ip_address("192.0.2.2")), 30
    )
    assert read(reply((NAME, 60, AAAA(str(TWO))), kind=AAAA_RECORD), AAAA_RECORD) == Answer(
        (TWO,), 60
    )


def test_aliases_are_followed_and_count():
    data = reply(
        (NAME, 20, CNAME("lb.example")),
        ("LB.example", 90, CNAME("node.example")),
        ("node.example", 50, A("192.0.2.1")),
        ("other.example", 50, A("192.0.2.66")),
    )
    assert read(data) == Answer((ONE,), 20)


def test_aliases_in_a_circle_lead_nowhere():
    data = reply((NAME, 9, CNAME("b.example")), ("b.example", 9, CNAME(NAME)))
    assert read(data).addresses == ()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 11, reply(number=8), question(NAME, A_RECORD, 7), reply(kind=AAAA_RECORD)],
)
def test_what_is_no_answer_to_our_question(data):
    assert read(data) is None
    assert read(reply(), name="other.example") is None


def test_what_a_server_may_say_instead():
    assert read(reply(rcode=RCODE.NXDOMAIN)).addresses == ()
    assert read(reply(tc=1)).truncated
    for rcode in (RCODE.SERVFAIL, RCODE.REFUSED):
        with pytest.raises(ValueError, match=RCODE.get(rcode)):
            read(reply(rcode=rcode))


@pytest.mark.parametrize("name", ["a" * 64 + ".example", ".".join(["abc"] * 80)])
def test_what_cannot_be_a_host_name(name):
    with pytest.raises(ValueError, match="is no host name"):
        question(name, A_RECORD, 1)


@given(st.binary(max_size=600))
def test_no_bytes_do_any_harm(data):
    header = b"\0\7\x84\0"
    for hostile in (data, header + data):
        with suppress(ValueError):
            read(hostile)


def test_servers_of_a_resolv_conf():
    lines = ["# nameserver 1.1.1.1", "search a", "nameserver 10.0.0.1", "nameserver fe80::1%eth0"]
    assert [str(one) for one in nameservers("\n".join([*lines, "nameserver"]))] == [
        "10.0.0.1:53",
        "[fe80::1]:53",
    ]


def test_an_answer_is_good_for_its_ttl_and_better_than_nothing_afterwards():
    cache = Cache()
    assert cache.fresh(NAME, 0.0) is None
    assert cache.stale(NAME) == ()
    assert cache.put(NAME, [Answer((ONE,), 30.0), Answer((), 1.0)], 100.0) == (ONE,)
    assert cache.fresh(NAME, 129.9) == (ONE,)
    assert cache.fresh(NAME, 130.0) is None
    assert cache.stale(NAME) == (ONE,)


def test_that_there_is_no_address_is_remembered_for_a_moment():
    cache = Cache()
    cache.put(NAME, [Answer((), 3600.0)], 0.0)
    assert cache.fresh(NAME, 4.9) == ()
    assert cache.fresh(NAME, 5.1) is None


def test_the_oldest_answer_makes_room():
    cache = Cache(capacity=2)
    for name in ("a", "b", "a", "c"):
        cache.put(name, [Answer((ONE,), 60.0)], 0.0)
    assert (cache.fresh("a", 1.0), cache.fresh("b", 1.0)) == ((ONE,), None)
