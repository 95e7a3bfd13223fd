"""Clusters in Prometheus's words."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_attempts import BOTH, failing, retrying
from waypoint.io.cluster_metrics import COUNTERS, GAUGES, ClusterMetrics


async def test_what_is_counted():
    async with rig(apps=False) as mesh:
        registry = CollectorRegistry()
        registry.register(ClusterMetrics(mesh.service.clusters))
        assert "envoy_cluster_upstream_rq_retry{" not in generate_latest(registry).decode()
        mesh.configure(retrying("5xx", 2))
        for ip in BOTH:
            await mesh.app(ip, failing(503))
        assert (await (await mesh.caller()).get()).status == 503
        text = generate_latest(registry).decode()
        name = '{cluster_name="inbound-vip|9080|http|reviews.shop.svc.cluster.local"}'
        assert f"envoy_cluster_upstream_rq_retry{name} 2.0" in text
        assert f"envoy_cluster_upstream_rq_retry_limit_exceeded{name} 1.0" in text
        assert f"envoy_cluster_upstream_rq_active{name} 0.0" in text
        for family in (*COUNTERS, *GAUGES):
            assert f"envoy_cluster_{family}{name}" in text
