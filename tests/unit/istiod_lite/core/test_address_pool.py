"""Virtual addresses for hosts: who gets which, and who keeps what."""

from ipaddress import ip_network

import pytest

from ambient.kube.core import objects
from ambient.kube.core.networking_objects import ServiceEntry
from istiod_lite.core.address_pool import AddressPool
from istiod_lite.core.facts import ObjectKey
from tests.unit.istiod_lite.objects import service_entry

A, B = ObjectKey("shop", "a"), ObjectKey("shop", "b")


def entry(key, *hosts, given=(), created="2026-01-01", labels=None, **spec):
    raw = service_entry(key.name, key.namespace, *hosts, created=created, labels=labels, **spec)
    raw["status"] = {"addresses": [{"value": ip, "host": host} for host, ip in given]}
    return objects.decode(raw, ServiceEntry)


def addresses(pool, key):
    return [(one.host, one.value) for one in pool.wanted(key)]


@pytest.fixture
def pool():
    return AddressPool()


def test_the_first_addresses_are_those_behind_the_network_address(pool):
    pool.put(A, entry(A, "a.x", "b.x"))
    assert addresses(pool, A) == [
        ("a.x", "240.240.0.1"),
        ("a.x", "2001:2::1"),
        ("b.x", "240.240.0.2"),
        ("b.x", "2001:2::2"),
    ]


def test_asking_again_or_an_unrelated_write_changes_nothing(pool):
    pool.put(A, entry(A, "a.x"))
    first = addresses(pool, A)
    pool.put(A, entry(A, "a.x", labels={"team": "x"}))
    assert addresses(pool, A) == first


def test_what_stands_in_a_status_stays(pool):
    given = [("a.x", "240.240.0.77"), ("a.x", "2001:2::77")]
    pool.put(A, entry(A, "a.x", given=given))
    assert addresses(pool, A) == given
    pool.put(B, entry(B, "b.x"))
    assert addresses(pool, B)[0] == ("b.x", "240.240.0.1")


@pytest.mark.parametrize(
    ("hosts", "more", "some"),
    [
        (["a.x"], {"resolution": "NONE"}, False),
        (["a.x"], {"addresses": ["192.0.2.1"]}, False),
        (["a.x"], {"labels": {"networking.istio.io/enable-autoallocate-ip": "false"}}, False),
        (["*.x"], {"resolution": "DNS"}, False),
        (["*.x"], {"resolution": "DYNAMIC_DNS"}, True),
    ],
)
def test_who_gets_any(pool, hosts, more, some):
    pool.put(A, entry(A, *hosts, **more))
    assert bool(addresses(pool, A)) is some


def test_stale_addresses_are_taken_back(pool):
    given = [("a.x", "240.240.0.5"), ("a.x", "2001:2::5")]
    pool.put(A, entry(A, "a.x", given=given, resolution="NONE"))
    assert addresses(pool, A) == []
    pool.put(A, entry(A, "b.x", given=given))
    assert [host for host, _ in addresses(pool, A)] == ["b.x", "b.x"]


def test_of_two_with_the_same_address_the_older_keeps_it(pool):
    given = ("240.240.0.5", "2001:2::5")
    pool.put(A, entry(A, "a.x", given=[("a.x", one) for one in given], created="2026-02-02"))
    asked = pool.put(B, entry(B, "b.x", given=[("b.x", one) for one in given]))
    assert asked == {A, B}
    assert addresses(pool, B) == [("b.x", one) for one in given]
    assert addresses(pool, A) == [("a.x", "240.240.0.1"), ("a.x", "2001:2::1")]


@pytest.mark.parametrize("written", ["240.240.0.5", "240.240.0.0/24"])
def test_what_users_write_wins(pool, written):
    given = [("a.x", "240.240.0.5"), ("a.x", "2001:2::5")]
    pool.put(A, entry(A, "a.x", given=given))
    assert pool.put(B, entry(B, "b.x", addresses=[written])) == {A, B}
    ((_, v4), (_, v6)) = addresses(pool, A)
    assert v4 not in ("240.240.0.5", written)
    assert v6 == "2001:2::5"


def test_a_full_range_gives_none_and_what_is_freed_is_given_again():
    pool = AddressPool([ip_network("240.240.0.0/30")])
    for name in "abcd":
        pool.put(ObjectKey("shop", name), entry(ObjectKey("shop", name), f"{name}.x"))
    found = [addresses(pool, ObjectKey("shop", name)) for name in "abcd"]
    assert [len(one) for one in found] == [1, 1, 0, 0]
    pool.put(A, None)
    assert pool.wanted(A) is None
    assert addresses(pool, ObjectKey("shop", "c")) == [("c.x", "240.240.0.1")]
