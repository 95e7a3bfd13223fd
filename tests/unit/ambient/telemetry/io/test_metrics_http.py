"""Traffic metrics as Prometheus reads them."""

from dataclasses import dataclass

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from ambient.telemetry.core.metric_names import TRAFFIC_LABELS, TrafficLabels
from ambient.telemetry.io.http import Response
from ambient.telemetry.io.metrics_http import FORGET_S, TrafficMetrics, serve_metrics


@dataclass
class Live:
    sent: int = 0
    received: int = 0


SOURCE = TrafficLabels(reporter="source", source_workload="web")
TARGET = TrafficLabels(reporter="destination")


async def scrape(port: int, path: str = "/metrics", accept: str = "") -> tuple[str, str]:
    with trio.fail_after(30):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            head = (
                f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {accept}\r\n\r\n"
            )
            await stream.send_all(head.encode())
            answer = b""
            while more := await stream.receive_some(65536):
                answer += more
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, body


def samples(text: str) -> dict[tuple[str, str, str], float]:
    """Value by sample name, reporter and response flags."""
    return {
        (s.name, s.labels.get("reporter", ""), s.labels.get("response_flags", "")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


async def test_a_scrape_in_the_middle_of_connections_and_after_them(nursery):
    metrics, registry = TrafficMetrics(), CollectorRegistry()
    registry.register(metrics)

    async def extra(request):
        return Response(200, "ok")

    port = await nursery.start(serve_metrics, "127.0.0.1", 0, registry, {"/extra": extra})
    assert (await scrape(port))[1] == ""  # families without samples are not there

    live = Live()
    first = metrics.opened(SOURCE, live)
    inbound = metrics.opened(TARGET, Live(sent=7, received=5), sent_is_response=True)
    live.sent, live.received = 100, 200
    found = samples((await scrape(port, "/stats/prometheus"))[1])
    assert found["istio_tcp_connections_opened_total", "source", "-"] == 1
    assert found["istio_tcp_received_bytes_total", "source", "-"] == 100
    assert found["istio_tcp_sent_bytes_total", "source", "-"] == 200
    assert found["istio_tcp_received_bytes_total", "destination", "-"] == 5
    assert found["istio_tcp_sent_bytes_total", "destination", "-"] == 7

    metrics.closed(first, "CONNECT")
    metrics.closed(first, "CONNECT")  # once is what counts
    metrics.closed(inbound)
    metrics.refused(TARGET, "DENY")
    metrics.socket("source", +1)
    metrics.socket("source", +1)
    metrics.socket("source", -1)
    live.sent = 9999  # nobody's any more
    found = samples((await scrape(port))[1])
    assert found["istio_tcp_connections_closed_total", "source", "CONNECT"] == 1
    assert found["istio_tcp_connections_closed_total", "destination", "-"] == 1
    assert found["istio_tcp_connections_failed_total", "source", "CONNECT"] == 1
    assert found["istio_tcp_connections_failed_total", "destination", "DENY"] == 1
    assert found["istio_tcp_received_bytes_total", "source", "-"] == 100
    assert found["istio_tcp_sockets_open", "source", ""] == 1

    head, body = await scrape(port, accept="application/openmetrics-text; version=1.0.0")
    assert "application/openmetrics-text" in head
    assert body.endswith("# EOF\n")
    assert (await scrape(port, "/extra"))[1] == "ok"
    assert "404" in (await scrape(port, "/else"))[0]


@dataclass
class Clock:
    now_s: float = 1000.0

    def __call__(self):
        return self.now_s


def test_names_that_nobody_uses_any_more_are_forgotten():
    clock, registry = Clock(), CollectorRegistry()
    metrics = TrafficMetrics(clock)
    registry.register(metrics)

    def sources():
        (family,) = (f for f in registry.collect() if f.name == "istio_tcp_connections_opened")
        return {sample.labels["source_workload"] for sample in family.samples}

    for name in ("job-1", "lasting", "web"):
        opened = metrics.opened(TrafficLabels(source_workload=name), Live())
        if name != "lasting":
            metrics.closed(opened)
    clock.now_s += FORGET_S
    assert sources() == {"job-1", "lasting", "web"}
    metrics.closed(metrics.opened(TrafficLabels(source_workload="web"), Live()))
    clock.now_s += 1
    assert sources() == {"lasting", "web"}


def test_unused_names_are_forgotten_though_nobody_scrapes():
    clock = Clock()
    metrics = TrafficMetrics(clock)
    for number in range(50):
        metrics.refused(TrafficLabels(source_workload=f"job-{number}"), "CONNECT")
        clock.now_s += FORGET_S / 4
    assert len(metrics._series) <= 6


def test_labels_are_upstreams_in_upstreams_order():
    assert TRAFFIC_LABELS[:9] == (
        *("reporter", "source_workload", "source_canonical_service"),
        *("source_canonical_revision", "source_workload_namespace", "source_principal"),
        *("source_app", "source_version", "source_cluster"),
    )
    assert TRAFFIC_LABELS[20:] == (
        *("request_protocol", "response_flags", "connection_security_policy"),
        *("source_region", "source_zone", "destination_region", "destination_zone"),
    )
    assert set(TrafficLabels().values()) == {"unknown", "tcp", "-"}


def test_pain_48_what_dry_runs_would_have_refused_is_counted_by_policy():
    registry, metrics = CollectorRegistry(), TrafficMetrics()
    registry.register(metrics)
    name = "ambient_policy_dry_run_denials_total"
    assert registry.get_sample_value(name, {"policy": "shop/p"}) is None
    metrics.policies.would_deny(("shop/p", "shop/q"))
    metrics.policies.would_deny(("shop/p",))
    assert registry.get_sample_value(name, {"policy": "shop/p"}) == 2
    assert registry.get_sample_value(name, {"policy": "shop/q"}) == 1
