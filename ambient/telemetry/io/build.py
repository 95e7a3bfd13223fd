"""What a process is: its build and what it uses, as metrics."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.process_collector import ProcessCollector

from ambient.telemetry.core import metric_names as names


def describe_process(registry: CollectorRegistry, component: str) -> None:
    """Add ``istio_build{component,tag}`` and the ``process_*`` metrics of this process."""
    ProcessCollector(registry=registry)
    build = Gauge(names.BUILD, "The build.", ("component", "tag"), registry=registry)
    build.labels(component, version("ambient-mesh")).set(1)
