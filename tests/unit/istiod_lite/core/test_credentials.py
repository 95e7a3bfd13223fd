"""Which Secrets are read, who gets what of them, and what the author of a rule is told."""

from __future__ import annotations

import pytest
import trustme

from ambient.api.type_urls import SECRET_TYPE
from ambient.xds.core import wire
from istiod_lite.core.credentials import ABSENT, UNREADABLE, forbidden, sources_of
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from istiod_lite.core.snapshot import Publisher
from tests.unit.istiod_lite.objects import gateway, gateway_class, meta, namespace, service

READY = ("Hostname", "wp.shop.svc.cluster.local")
WP, FAR = ObjectKey("shop", "wp"), ObjectKey("other", "far")
RULE = ObjectRef("DestinationRule", ObjectKey("shop", "bank"))
AUTHORITY = trustme.CA()
OWN = AUTHORITY.issue_cert("shop.example.com")
CERTIFICATE = b"".join(blob.bytes() for blob in OWN.cert_chain_pems)
KEY, CA = OWN.private_key_pem.bytes(), AUTHORITY.cert_pem.bytes()
PAIR = {"tls.crt": CERTIFICATE, "tls.key": KEY}


def secret(name, where="shop", kind="Secret"):
    return ObjectRef(kind, ObjectKey(where, name))


def rule(name="bank-client", mode="MUTUAL", **more):
    tls = {"mode": mode, "credentialName": name, **more}
    return {
        "metadata": meta("bank", "shop"),
        "spec": {"host": "bank.example.com", "trafficPolicy": {"tls": tls}},
    }


@pytest.fixture
def index():
    found = Index()
    found.load(
        {
            "Namespace": [namespace("shop"), namespace("other")],
            "GatewayClass": [gateway_class()],
            "Gateway": [gateway("wp", "shop", READY), gateway("far", "other", READY)],
            "Service": [service("web", "shop", "10.96.0.1")],
        }
    )
    return found


def told(index, **secrets):
    """All that is wanted is there or not."""
    for ref in index.wanted_credentials:
        index.stage_credential(ref, secrets.get(ref.key.name.replace("-", "_"), ABSENT))
    return index.settle()


def said(index):
    return [one.message for one in index.wanted(RULE)]


def test_only_what_is_named_is_read_and_only_for_its_waypoint(index):
    assert index.wanted_credentials == frozenset()
    index.apply("DestinationRule", rule())
    assert index.wanted_credentials == {secret("bank-client"), secret("bank-client-cacert")}
    assert index.credentials_for_waypoint(*WP) == {}  # not known yet: not even that it is absent
    changes = told(index, bank_client={**PAIR, "ca.crt": CA})
    assert changes.credentials == {WP}
    found = index.credentials_for_waypoint(*WP)
    assert found["kubernetes://bank-client"].private_key_pem == KEY
    assert found["kubernetes://bank-client-cacert"].ca_pem == CA
    assert index.credentials_for_waypoint(*FAR) == {}
    assert said(index) == []
    index.remove("DestinationRule", "shop", "bank")
    assert (index.wanted_credentials, index.credentials_for_waypoint(*WP)) == (frozenset(), {})


def test_a_new_certificate_is_told_and_nothing_else(index):
    index.apply("DestinationRule", rule())
    told(index, bank_client={**PAIR, "ca.crt": CA})
    publisher = Publisher()
    publisher.advance(index, told(index, bank_client={"cert": CERTIFICATE, "key": KEY}))
    resources = publisher.snapshot.credentials[WP]
    shown = wire.decode(SECRET_TYPE, resources["kubernetes://bank-client"].body)
    assert (shown.certificate_pem, shown.private_key_pem) == (CERTIFICATE, KEY)
    assert wire.decode(SECRET_TYPE, resources["kubernetes://bank-client-cacert"].body).empty
    assert told(index, bank_client={"cert": CERTIFICATE, "key": KEY}).credentials == frozenset()


@pytest.mark.parametrize(
    ("spec", "secrets", "problem"),
    [
        (rule(), {}, f"Secret shop/bank-client {ABSENT}"),
        (rule(), {"bank_client": UNREADABLE}, f"Secret shop/bank-client {UNREADABLE}"),
        (rule(), {"bank_client": {"ca.crt": CA}}, "has no tls.crt and tls.key"),
        (rule(), {"bank_client": PAIR}, "has no ca.crt"),
        (rule(), {"bank_client": {**PAIR, "ca.crt": b"x"}}, "the CA is no PEM"),
        (rule(), {"bank_client": {**PAIR, "tls.crt": CA, "ca.crt": CA}}, "for another key"),
        (rule(), {"bank_client": {**PAIR, "tls.key": b"x", "ca.crt": CA}}, "no PEM"),
        (rule(), {"bank_client": PAIR, "bank_client_cacert": {"cacert": CA}}, ""),
        (rule(), {"bank_client": {**PAIR, "ca.crt": CA}}, ""),
        (rule(insecureSkipVerify=True), {"bank_client": PAIR}, ""),
        (rule(mode="SIMPLE"), {"bank_client_cacert": {"ca.crt": CA}}, ""),
        (rule(mode="SIMPLE"), {"bank_client": {"cacert": CA}}, ""),
        (rule(mode="SIMPLE"), {"bank_client": PAIR}, "has no ca.crt"),
        (rule("configmap://shop/roots", "SIMPLE"), {"roots": {"ca.crt": CA}}, ""),
        (rule("configmap://shop/roots"), {"roots": {**PAIR, "ca.crt": CA}}, "has no tls.crt"),
        (rule("kubernetes://other/bank-client"), {}, "is no name in the waypoint's own namespace"),
        (rule(mode="ISTIO_MUTUAL"), {}, ""),
    ],
)  # fmt: skip
def test_what_the_author_is_told(index, spec, secrets, problem):
    index.apply("DestinationRule", spec)
    told(index, **secrets)
    assert [problem in text for text in said(index)] == ([True] if problem else [])
    # Mended, the object has nothing to say any more.
    index.apply("DestinationRule", rule(mode="DISABLE"))
    assert said(index) == []


def test_subsets_and_ports_name_credentials_too(index):
    policy = {"portLevelSettings": [{"tls": {"mode": "SIMPLE", "credentialName": "a"}}]}
    subset = {"trafficPolicy": {"tls": {"mode": "SIMPLE", "credentialName": "b-cacert"}}}
    spec = {"host": "x", "trafficPolicy": policy, "subsets": [subset, "x", {"trafficPolicy": 3}]}
    index.apply("DestinationRule", {"metadata": meta("bank", "shop"), "spec": spec})
    assert index.wanted_credentials == {secret("a"), secret("a-cacert"), secret("b-cacert")}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a", ["a-cacert", "a"]),
        ("kubernetes://a", ["a-cacert", "a"]),
        ("kubernetes://shop/a", ["a-cacert", "a"]),
        ("a-cacert", ["a-cacert"]),
        ("configmap://shop/a", ["a"]),
        ("kubernetes://other/a", []),
        ("other/a", []),
        ("shop/a/b", []),
        ("kubernetes://", []),
        ("/a", []),
    ],
)
def test_names(name, found):
    assert [one.key.name for one in sources_of(name, "shop")] == found


def test_the_remedy_for_a_secret_that_may_not_be_read():
    text = forbidden(secret("bank-client"), "istio-system")
    assert "-n shop --clusterrole=istiod-credentials" in text
    assert "--serviceaccount=istio-system:istiod" in text
