"""Policies of backends: what they come to for a service's port, beside DestinationRules."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import config, program, service
from waypoint.core.tls_settings import read_tls

WEB = {"group": "", "kind": "Service", "name": "reviews"}
CA = {"kind": "ConfigMap", "group": "", "name": "ca"}


def tls(*targets, name="p", created="2026-01-01", **validation):
    given = {"hostname": "r.example.com", "caCertificateRefs": [CA], **validation}
    spec = {"targetRefs": list(targets or (WEB,)), "validation": given}
    return config("BackendTLSPolicy", name, spec, creationTimestamp=created)


def traffic(**spec):
    return config("XBackendTrafficPolicy", "t", {"targetRefs": [WEB], **spec})


def rule(policy):
    return config("DestinationRule", "d", {"host": "reviews", "trafficPolicy": policy})


def settings(*objects, of=None, port=9080):
    return program(*objects).settings(of or service(), port, "")


def test_the_server_is_named_and_its_authority_believed():
    found = read_tls(settings(tls()).tls)
    assert (found.sni, found.names, found.credential) == (
        "r.example.com", (), "configmap://shop/ca",
    )  # fmt: skip
    assert (found.verify, found.mutual) == (True, False)
    names = [{"type": "URI", "uri": "spiffe://a/b"}, {"type": "Hostname", "hostname": "x.y"}]
    found = read_tls(settings(tls(subjectAltNames=names)).tls)
    assert found.names == ("spiffe://a/b", "x.y")
    system = tls(caCertificateRefs=[], wellKnownCACertificates="System")
    assert (read_tls(settings(system).tls).credential, read_tls(settings(system).tls).ca_file) == (
        "", "",
    )  # fmt: skip
    two = [CA, {**CA, "kind": "Secret"}, {**CA, "name": "old"}]
    found = read_tls(settings(tls(caCertificateRefs=two)).tls)
    assert found.credential == "configmap://shop/ca,configmap://shop/old"


@pytest.mark.parametrize(
    ("validation", "field"),
    [
        ({"caCertificateRefs": [{**CA, "kind": "Secret"}]}, "caCertificateRefs"),
        ({"caCertificateRefs": []}, "wellKnownCACertificates"),
        ({"caCertificateRefs": [], "wellKnownCACertificates": "x/y"}, "wellKnownCACertificates"),
        ({"hostname": ""}, "hostname"),
        ({"subjectAltNames": [{"type": "Email"}]}, "subjectAltNames[0].type"),
        ({"subjectAltNames": [{"type": "URI", "uri": "a.b"}]}, "subjectAltNames[0]"),
        ({"subjectAltNames": [{"type": "Hostname"}]}, "subjectAltNames[0]"),
    ],
)
def test_what_cannot_be_believed_is_not_called(validation, field):
    made = program(tls(**validation))
    (problem,) = made.problems
    assert problem.field == f"spec.validation.{field}"
    with pytest.raises(ValueError, match="BackendTLSPolicy shop/p"):
        read_tls(made.settings(service(), 9080, "").tls)


def test_a_port_before_the_service_and_a_rule_before_both():
    wide, narrow = tls(name="w"), tls({**WEB, "port": 9080}, name="n", hostname="n.example.com")
    assert settings(wide, narrow).tls["sni"] == "n.example.com"
    assert settings(wide, narrow, port=81).tls["sni"] == "r.example.com"
    assert settings(wide, rule({"tls": {"mode": "SIMPLE", "sni": "d"}})).tls["sni"] == "d"
    assert settings(wide, rule({"tls": {"mode": "DISABLE"}})).tls == {"mode": "DISABLE"}
    # The mesh's own TLS says nothing about what is inside it, nor do other fields.
    assert settings(wide, rule({"tls": {"mode": "ISTIO_MUTUAL"}})).tls["sni"] == "r.example.com"
    assert settings(wide, rule({"connectionPool": {}})).tls["sni"] == "r.example.com"


def test_only_its_targets_and_the_oldest_of_several():
    other = service("ratings")
    assert settings(tls(), of=other).tls is None
    old = tls(name="z", created="2025-01-01", hostname="old.example.com")
    assert settings(tls(), old).tls["sni"] == "old.example.com"
    entry = tls({"group": "networking.istio.io", "kind": "ServiceEntry", "name": "site"})
    outside = service("site", hostname="www.example.com")
    assert settings(entry, of=outside).tls["sni"] == "r.example.com"
    assert settings(entry).tls is None


def test_retries_have_a_budget():
    found = settings(traffic(retryConstraint={})).retry_budget
    assert (found.percent, found.interval_s, found.min_rate, found.rate_s) == (20, 10, 10, 1)
    constraint = {
        "budget": {"percent": 50, "interval": "30s"},
        "minRetryRate": {"count": 3, "interval": "2s"},
    }
    found = settings(traffic(retryConstraint=constraint)).retry_budget
    assert (found.percent, found.interval_s, found.min_rate, found.rate_s) == (50, 30, 3, 2)
    own = rule({"retryBudget": {"percent": 10, "budgetInterval": "5s"}})
    found = settings(traffic(retryConstraint=constraint), own).retry_budget
    assert (found.percent, found.interval_s, found.min_concurrency) == (10, 5, 3)
    (problem,) = program(traffic(retryConstraint={"budget": {"percent": 101}})).problems
    assert "more than 100" in problem.reason


def test_sessions_of_a_service():
    found = settings(traffic(sessionPersistence={"type": "Header", "sessionName": "x-s"})).session
    assert (found.name, found.header) == ("x-s", True)
