"""Questions in, answers out."""

from __future__ import annotations

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from ambient.kube.core.resources import ENDPOINT_SLICES, SERVICES
from ambientctl.local.dns import Zone


class Known:
    """The objects that the zone looks at."""

    def __init__(self, services, slices=()):
        self._all = {
            SERVICES: {(s["metadata"]["namespace"], s["metadata"]["name"]): s for s in services},
            ENDPOINT_SLICES: {
                (s["metadata"]["namespace"], s["metadata"]["name"]): s for s in slices
            },
        }

    def get(self, kind, namespace, name):
        return self._all[kind].get((namespace, name))

    def all(self, kind):
        return self._all[kind]


WEB = {
    "metadata": {"namespace": "shop", "name": "web"},
    "spec": {
        "clusterIP": "10.96.1.1",
        "clusterIPs": ["10.96.1.1"],
        "ports": [{"name": "http", "port": 80}],
    },
}
HEADLESS = {"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None"}}
ALIAS = {
    "metadata": {"namespace": "shop", "name": "out"},
    "spec": {"type": "ExternalName", "externalName": "example.org"},
}
DB_SLICE = {
    "metadata": {
        "namespace": "shop",
        "name": "db-1",
        "labels": {"kubernetes.io/service-name": "db"},
    },
    "endpoints": [
        {"addresses": ["10.244.1.2"], "hostname": "db-0"},
        {"addresses": ["10.244.1.3"], "conditions": {"ready": False}},
    ],
}
ZONE = Zone(Known([WEB, HEADLESS, ALIAS], [DB_SLICE]))


def ask(name, kind="A"):
    reply = ZONE.answer(DNSRecord.question(name, kind).pack())
    return RCODE[reply.header.rcode], [str(record.rdata) for record in reply.rr]


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("web.shop.svc.cluster.local", "A", ("NOERROR", ["10.96.1.1"])),
        ("WEB.shop.svc.Cluster.local", "A", ("NOERROR", ["10.96.1.1"])),
        ("web.shop.svc.cluster.local", "AAAA", ("NOERROR", [])),
        ("db.shop.svc.cluster.local", "A", ("NOERROR", ["10.244.1.2"])),
        ("db-0.db.shop.svc.cluster.local", "A", ("NOERROR", ["10.244.1.2"])),
        ("db-9.db.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
        ("out.shop.svc.cluster.local", "A", ("NOERROR", ["example.org."])),
        ("10-244-1-5.shop.pod.cluster.local", "A", ("NOERROR", ["10.244.1.5"])),
        ("nonsense.shop.pod.cluster.local", "A", ("NXDOMAIN", [])),
        ("none.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
        ("web.shop.svc.cluster.local.shop.svc.cluster.local", "A", ("NXDOMAIN", [])),
        ("example.org", "A", ("NXDOMAIN", [])),
        ("1.1.96.10.in-addr.arpa", "PTR", ("NOERROR", ["web.shop.svc.cluster.local."])),
        (
            "_http._tcp.web.shop.svc.cluster.local",
            "SRV",
            ("NOERROR", ["0 100 80 web.shop.svc.cluster.local."]),
        ),
    ],
)
def test_names(name, kind, answer):
    assert ask(name, kind) == answer


def test_an_absent_name_says_how_long_to_remember_it():
    reply = ZONE.answer(DNSRecord.question("none.shop.svc.cluster.local").pack())
    assert QTYPE[reply.auth[0].rtype] == "SOA"


@pytest.mark.parametrize("raw", [b"", b"\0", b"\xff" * 40, b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_question_gets_no_answer(raw):
    assert ZONE.answer(raw) is None
