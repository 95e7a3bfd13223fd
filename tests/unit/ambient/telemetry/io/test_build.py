"""Every process says what it is."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry

from ambient.telemetry.io.build import describe_process


def test_a_process_says_its_build_and_what_it_uses() -> None:
    registry = CollectorRegistry()
    describe_process(registry, "pilot")
    labels = {"component": "pilot", "tag": version("ambient-mesh")}
    assert registry.get_sample_value("istio_build", labels) == 1
    assert (registry.get_sample_value("process_resident_memory_bytes") or 0) > 1e6
    assert (registry.get_sample_value("process_open_fds") or 0) > 0
