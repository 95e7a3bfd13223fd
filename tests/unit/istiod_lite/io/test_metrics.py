"""The control plane's metrics have the names that Istio's dashboards ask for."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from istiod_lite.io.metrics import Metrics


@pytest.mark.parametrize("encode", [generate_latest, openmetrics.generate_latest])
def test_istios_counters_have_istios_names(encode) -> None:
    metrics = Metrics()
    metrics.pushes.labels("wds").inc()
    metrics.pushes.labels("wds").inc(2)
    metrics.csr.inc()
    metrics.csr_faults.labels("weak key").inc()
    lines = encode(metrics.registry).decode().splitlines()
    assert 'pilot_xds_pushes{type="wds"} 3.0' in lines
    assert "citadel_server_csr_count 1.0" in lines
    assert 'ambient_istiod_csr_faults_total{fault="weak key"} 1.0' in lines
