"""What a policy of backends is told at each target, and which waypoints get it, and how."""

from __future__ import annotations

import pytest
import trustme

from istiod_lite.core.credentials import ABSENT
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from tests.unit.istiod_lite.objects import (
    gateway,
    gateway_class,
    meta,
    namespace,
    route,
    service,
    service_entry,
)

USE = {"istio.io/use-waypoint": "wp"}
CA = trustme.CA().cert_pem.bytes()
TLS, TRAFFIC = "BackendTLSPolicy", "XBackendTrafficPolicy"
WEB = {"group": "", "kind": "Service", "name": "web"}
HTTPS = {**WEB, "sectionName": "https"}
ENTRY = {"group": "networking.istio.io", "kind": "ServiceEntry", "name": "ext"}
BUNDLE = {"group": "", "kind": "ConfigMap", "name": "bundle"}
AUTHORITY = ObjectRef("ConfigMap", ObjectKey("shop", "bundle"))
PORTS = [{"name": "http", "port": 80}, {"name": "https", "port": 443}]


@pytest.fixture
def index():
    made = Index()
    made.load(
        {
            "Namespace": [namespace("shop"), namespace("other")],
            "GatewayClass": [gateway_class()],
            "Gateway": [
                gateway("wp", "shop", ("Hostname", "wp.shop.svc.cluster.local")),
                gateway("far", "other", ("Hostname", "far.other.svc.cluster.local")),
            ],
            "Service": [
                service("web", "shop", "10.96.0.1", labels=USE, ports=PORTS),
                service("front", "other", "10.96.0.2", labels={"istio.io/use-waypoint": "far"}),
            ],
            "ServiceEntry": [service_entry("ext", "shop", "a.example.com")],
        }
    )
    return made


def policy(*targets, name="p", where="shop", created="2026-01-01", **validation):
    given = {"hostname": "web.example.com", "caCertificateRefs": [BUNDLE], **validation}
    return {
        "metadata": meta(name, where, creationTimestamp=f"{created}T00:00:00Z"),
        "spec": {"targetRefs": list(targets or (WEB,)), "validation": given},
    }


def told(index, name="p", kind=TLS):
    """By target: reasons by condition type."""
    found = index.wanted(ObjectRef(kind, ObjectKey("shop", name)))
    return [{one.type: one.reason for one in parent.conditions} for parent in found]


def has(index, data):
    """The ConfigMap holds this (a text: it cannot be read)."""
    index.stage_credential(AUTHORITY, data)
    index.settle()


def targets(index, where="shop", waypoint="wp", name="p", kind=TLS):
    config = index.configs_for_waypoint(where, waypoint).get(f"{kind}/shop/{name}")
    return config and config.object["spec"]["targetRefs"]


def test_accepted_where_its_authorities_are_there(index):
    index.apply(TLS, policy())
    assert index.wanted_credentials == {AUTHORITY}
    assert told(index) == [{"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}]
    has(index, {"ca.crt": CA})
    (parent,) = index.wanted(ObjectRef(TLS, ObjectKey("shop", "p")))
    assert parent.ref == WEB
    assert [one.met for one in parent.conditions] == [True, True]
    assert index.credentials_for_waypoint("shop", "wp")["configmap://shop/bundle-cacert"].ca_pem
    assert targets(index) == [WEB]
    index.remove(TLS, "shop", "p")
    assert (index.wanted_credentials, told(index), targets(index)) == (frozenset(), [], None)


@pytest.mark.parametrize("data", [ABSENT, {}, {"ca.crt": b"no certificate"}])
def test_authorities_that_cannot_be_used_block_and_say_so(index, data):
    index.apply(TLS, policy())
    has(index, data)
    assert told(index) == [
        {"Accepted": "NoValidCACertificate", "ResolvedRefs": "InvalidCACertificateRef"}
    ]
    assert targets(index) == [WEB]  # the waypoint has it, and makes no connection
    has(index, {"ca.crt": CA})
    assert told(index) == [{"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}]


def test_kinds_of_authorities(index):
    secret = {"group": "", "kind": "Secret", "name": "bundle"}
    index.apply(TLS, policy(caCertificateRefs=[secret]))
    assert told(index) == [{"Accepted": "NoValidCACertificate", "ResolvedRefs": "InvalidKind"}]
    index.apply(TLS, policy(caCertificateRefs=[secret, BUNDLE]))
    has(index, {"ca.crt": CA})
    assert told(index) == [{"Accepted": "Accepted", "ResolvedRefs": "InvalidKind"}]
    for name, reason in (("System", "Accepted"), ("example.com/roots", "Invalid")):
        index.apply(TLS, policy(caCertificateRefs=[], wellKnownCACertificates=name))
        assert told(index)[0]["Accepted"] == reason


@pytest.mark.parametrize(
    ("target", "reason", "held"),
    [
        (HTTPS, "Accepted", [{**WEB, "port": 443}]),
        ({**WEB, "sectionName": "gone"}, "TargetNotFound", None),
        ({**WEB, "name": "gone"}, "TargetNotFound", None),
        ({**WEB, "group": "apps"}, "TargetNotFound", None),
        ({"group": "x", "kind": "Pool", "name": "p"}, "TargetNotFound", None),
        (ENTRY, "Accepted", [ENTRY]),
    ],
)
def test_targets(index, target, reason, held):
    index.apply(TLS, policy(target))
    assert told(index)[0]["Accepted"] == reason
    assert targets(index) == held


def test_of_two_the_older_counts_and_the_other_after_it(index):
    index.apply(TLS, policy(name="a", created="2026-02-02"))
    index.apply(TLS, policy(HTTPS, name="narrow", created="2026-03-03"))
    index.apply(TLS, policy(name="b", created="2026-01-01"))
    assert told(index, "a")[0]["Accepted"] == "Conflicted"
    assert (targets(index, name="a"), targets(index, name="b")) == (None, [WEB])
    assert told(index, "narrow")[0]["Accepted"] == "Accepted"  # another section
    index.remove(TLS, "shop", "b")
    assert told(index, "a")[0]["Accepted"] == "Accepted"
    assert targets(index, name="a") == [WEB]
    index.apply(TLS, policy(name="Z", created="2026-02-02"))  # as old: the name decides
    assert told(index, "a")[0]["Accepted"] == "Conflicted"


def test_a_target_that_comes_later(index):
    index.apply(TLS, policy({**WEB, "name": "late"}))
    assert told(index)[0]["Accepted"] == "TargetNotFound"
    index.apply("Service", service("late", "shop", "10.96.0.7", labels=USE))
    assert told(index)[0]["Accepted"] == "Accepted"
    index.apply("Service", service("late", "shop", "10.96.0.7", labels=USE, ports=PORTS))
    index.apply(TLS, policy({**HTTPS, "name": "late"}))
    assert targets(index) == [{**WEB, "name": "late", "port": 443}]
    index.remove("Service", "shop", "late")
    assert (told(index)[0]["Accepted"], targets(index)) == ("TargetNotFound", None)


def test_whoever_routes_there_gets_it_and_whoever_does_not_does_not(index):
    index.apply(TLS, policy())
    has(index, {"ca.crt": CA})
    assert targets(index, "other", "far") is None
    rules = [{"backendRefs": [{"name": "web", "namespace": "shop", "port": 80}]}]
    index.apply("HTTPRoute", route("r", "other", {**WEB, "name": "front"}, rules=rules))
    assert targets(index, "other", "far") == [WEB]
    assert "configmap://shop/bundle-cacert" in index.credentials_for_waypoint("other", "far")
    index.remove("HTTPRoute", "other", "r")
    index.apply("HTTPRoute", route("r", "other", {**WEB, "name": "front"}))
    index.apply(TLS, policy(hostname="other.example.com"))
    assert targets(index, "other", "far") is None


def test_a_destination_rule_goes_where_routes_lead(index):
    rule = {"metadata": meta("web", "shop"), "spec": {"host": "web"}}
    index.apply("DestinationRule", rule)
    rules = [{"backendRefs": [{"name": "web", "namespace": "shop", "port": 80}]}]
    index.apply("HTTPRoute", route("r", "other", {**WEB, "name": "front"}, rules=rules))
    assert "DestinationRule/shop/web" in index.configs_for_waypoint("other", "far")


def test_traffic_policies_refer_to_nothing(index):
    spec = {"targetRefs": [WEB], "retryConstraint": {}}
    index.apply(TRAFFIC, {"metadata": meta("p", "shop"), "spec": spec})
    assert told(index, kind=TRAFFIC) == [{"Accepted": "Accepted"}]
    assert targets(index, kind=TRAFFIC) == [WEB]


def test_the_status_of_others_stays(index):
    other = {"ancestorRef": WEB, "controllerName": "example.com/x", "conditions": []}
    index.apply(TLS, {**policy(), "status": {"ancestors": [other]}})
    ref = ObjectRef(TLS, ObjectKey("shop", "p"))
    have = index.reported(ref)
    assert (have.shape.field, list(have.parents), have.ours) == ("ancestors", [other], [])
    assert index.status_differs(ref)
