"""The DNS families, as a scrape shows them."""

from prometheus_client import CollectorRegistry, generate_latest

from tests.unit.ztunnel.core.mesh_builder import workload
from ztunnel.io.dns_metrics import DnsLabels, DnsMetrics

HEAD = 'request_protocol="udp",request_query_type="a",source_canonical_'


def scrape(metrics):
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode()


def test_nothing_is_exposed_before_the_first_query():
    assert scrape(DnsMetrics()) == ""


def test_istios_names_and_labels():
    metrics = DnsMetrics()
    source = workload("web", "10.0.0.1", canonical_name="web", canonical_revision="v1")
    known = DnsLabels.of("a", "udp", source)
    metrics.request(known)
    metrics.request(DnsLabels.of("a", "udp", None))
    for seconds, failed in ((0.0004, False), (0.001, False), (0.05, False), (7, True)):
        metrics.forwarded(known)
        metrics.answered(known, seconds, failed=failed)
    text = scrape(metrics)
    labels = f'{HEAD}revision="v1",source_canonical_service="web"'
    unknown = f'{HEAD}revision="unknown",source_canonical_service="unknown"'
    upstream = "istio_dns_upstream"
    for line in (
        f"istio_dns_requests_total{{{labels}}} 1.0",
        f"istio_dns_requests_total{{{unknown}}} 1.0",
        f"{upstream}_requests_total{{{labels}}} 4.0",
        f"{upstream}_failures_total{{{labels}}} 1.0",
        f'{upstream}_request_duration_seconds_bucket{{le="0.0005",{labels}}} 1.0',
        f'{upstream}_request_duration_seconds_bucket{{le="0.001",{labels}}} 2.0',
        f'{upstream}_request_duration_seconds_bucket{{le="0.01",{labels}}} 2.0',
        f'{upstream}_request_duration_seconds_bucket{{le="5.0",{labels}}} 3.0',
        f'{upstream}_request_duration_seconds_bucket{{le="+Inf",{labels}}} 4.0',
        f"{upstream}_request_duration_seconds_count{{{labels}}} 4.0",
    ):
        assert line in text.splitlines()
