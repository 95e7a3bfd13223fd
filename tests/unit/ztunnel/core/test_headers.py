"""What a CONNECT says beside its authority."""

import pytest

from ambient.api.address import HostPort
from ambient.api.workload import Locality, WorkloadType
from tests.unit.ztunnel.core.mesh_builder import workload
from ztunnel.core.headers import (
    baggage,
    forwarded,
    forwarded_host,
    forwarded_network,
    read_baggage,
    request_headers,
    trace_id,
    traceparent,
)

FULL = workload(
    *("web-1", "10.0.0.1"),
    cluster_id="Kubernetes",
    workload_type=WorkloadType.DEPLOYMENT,
    workload_name="web",
    canonical_name="shop-web",
    canonical_revision="v2",
    locality=Locality("eu", "eu-1"),
)


def test_baggage_lists_what_is_known_in_ztunnels_order():
    assert baggage(FULL) == (
        "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,"
        "service.name=shop-web,service.version=v2,cloud.region=eu,cloud.availability_zone=eu-1"
    )
    assert baggage(workload("bare", "10.0.0.1")) == "k8s.namespace.name=shop"


@pytest.mark.parametrize(
    ("peer", "host", "text"),
    [
        (HostPort("10.0.0.1", 4000), "", 'for="10.0.0.1:4000"'),
        (HostPort("fd00::1", 4000), "api.example", 'for="[fd00::1]:4000";host=api.example'),
    ],
)
def test_forwarded_names_the_client_and_the_service(peer, host, text):
    assert forwarded(peer, host) == text
    assert forwarded_host((("forwarded", text),)) == host


def test_no_forwarded_header_names_no_host():
    assert forwarded_host((("baggage", "x"),)) == ""


def test_every_connection_has_a_trace_id():
    headers = request_headers(FULL, HostPort("10.0.0.1", 1), "", bytes(range(24)))
    assert [name for name, _ in headers] == ["baggage", "forwarded", "traceparent"]
    assert trace_id(headers) == "000102030405060708090a0b0c0d0e0f"
    assert traceparent(bytes(24)) == f"00-{'0' * 32}-{'0' * 16}-00"


@pytest.mark.parametrize("value", ["", "x" * 55, "00-12-34-00", f"00-{'g' * 32}-{'0' * 16}-00"])
def test_a_malformed_trace_is_none(value):
    assert trace_id((("traceparent", value),)) == ""


def test_baggage_reads_back_as_what_it_said():
    told = read_baggage((("baggage", baggage(FULL)),))
    assert baggage(told) == baggage(FULL)
    assert told.namespace == FULL.namespace


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("baggage", ""),),
        (("baggage", "k8s.namespace.name="),),
        (("baggage", "service.name=" + "x" * 254),),
        (("forwarded", "service.name=x"),),
    ],
)
def test_baggage_that_says_nothing(headers):
    assert read_baggage(headers) is None


def test_baggage_in_two_headers_and_of_another_kind():
    told = read_baggage(
        (("baggage", "k8s.job.name=import, service.name=imports"), ("baggage", "cloud.region=r"))
    )
    assert (told.workload_type.name, told.workload_name) == ("JOB", "import")
    assert (told.canonical_name, told.locality.region) == ("imports", "r")


def test_the_network_of_a_gateways_client():
    assert forwarded_network((("x-forwarded-network", "west"),)) == "west"
    assert forwarded_network((("x-forwarded-network", ""),)) == ""
    assert forwarded_network(()) is None
