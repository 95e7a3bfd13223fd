"""Who speaks for a hostname, where, and everywhere."""

import pytest

from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.hosts import Claim, Hosts

HOST = "db.example.com"


def ref(name, namespace="shop", kind="ServiceEntry"):
    return ObjectRef(kind, ObjectKey(namespace, name))


def claim(of, created="2026", private=False):
    age = (created, of.key.namespace, of.key.name)
    return Claim(outside=of.kind != "Service", age=age, ref=of, private=private)


OLD, NEW, FAR = ref("old"), ref("new"), ref("far", "other")
KUBE = ref("kube", kind="Service")


@pytest.mark.parametrize(
    ("claims", "winners", "canonical"),
    [
        ([claim(NEW)], {NEW}, NEW),
        ([claim(NEW, "2026"), claim(OLD, "2025")], {OLD}, OLD),
        ([claim(NEW), claim(OLD)], {NEW}, NEW),  # of the same age: by name
        ([claim(OLD, "2025"), claim(KUBE, "2026")], {KUBE}, KUBE),
        ([claim(OLD, "2026"), claim(FAR, "2025")], {OLD, FAR}, FAR),
        ([claim(OLD, "2025", private=True), claim(FAR, "2026")], {OLD, FAR}, FAR),
        ([claim(OLD, private=True)], {OLD}, None),  # nobody speaks for all
    ],
)
def test_precedence(claims, winners, canonical):
    hosts = Hosts()
    for one in claims:
        hosts.put(one.ref, (HOST,), one)
    hosts.settle()
    assert hosts.speakers(HOST) == winners
    assert hosts.canonical(HOST) == canonical


def test_everybody_whose_standing_changes_is_told():
    hosts = Hosts()
    hosts.put(NEW, (HOST,), claim(NEW, "2026"))
    assert hosts.settle() == ({NEW}, (HOST,))
    hosts.put(OLD, (HOST,), claim(OLD, "2025"))
    assert hosts.settle() == ({OLD, NEW}, (HOST,))
    hosts.put(OLD, (HOST,), claim(OLD, "2025"))
    assert hosts.settle() == (set(), ())
    hosts.put(OLD, (), None)
    assert hosts.settle() == ({OLD, NEW}, (HOST,))
    assert hosts.of(NEW) == [HOST]


def test_a_canonical_flag_that_moves_concerns_both():
    hosts = Hosts()
    for one in (claim(OLD, "2025"), claim(FAR, "2026")):
        hosts.put(one.ref, (HOST,), one)
    hosts.settle()
    hosts.put(OLD, (), None)
    assert hosts.settle()[0] == {OLD, FAR}
    assert hosts.canonical(HOST) == FAR
