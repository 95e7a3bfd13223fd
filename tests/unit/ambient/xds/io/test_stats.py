"""The session's counters under upstream's names."""

from prometheus_client import CollectorRegistry, generate_latest

from ambient.xds.io.stats import XdsStats


def test_exposition():
    stats, registry = XdsStats(), CollectorRegistry()
    registry.register(stats)
    assert generate_latest(registry) == b""
    stats.terminations["Reconnect"] += 2
    stats.messages["type"] += 1
    stats.message_bytes["type"] += 300
    lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        'istio_xds_connection_terminations_total{reason="Reconnect"} 2.0',
        'istio_xds_message_total{url="type"} 1.0',
        'istio_xds_message_bytes_total{url="type"} 300.0',
    ]
