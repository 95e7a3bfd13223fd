"""What this process may do and how it is doing: privileges, descriptors, its own gauges."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.api.errors import MeshError
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import set_mark
from ambient.telemetry.core import metric_names as names
from ztunnel.io.pods import Pods


def raise_descriptor_limit() -> None:
    """Two sockets a connection: take all descriptors that we are allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_privileges(mark: int | None) -> None:
    """Fail at the start, not at the first pod. Raises MeshError that names the capability."""
    try:
        with Netns.current() as here:
            here.run(int)
    except OSError as error:
        raise MeshError(
            f"cannot enter network namespaces: {error.strerror}",
            hint="run ztunnel as root, with the capability SYS_ADMIN",
        ) from None
    try:
        with socket.socket() as probe:
            set_mark(probe, mark)
    except OSError as error:
        raise MeshError(
            f"cannot mark sockets: {error.strerror}",
            hint="run ztunnel as root, with the capability NET_ADMIN",
        ) from None


class ProxyCounts(Collector):
    """Pods by state, and which build this is."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods

    def collect(self) -> Iterator[Metric]:
        """Gauges and counters, read when asked for."""
        pods = self._pods
        yield GaugeMetricFamily(names.ACTIVE_PROXIES, "Pods served.", len(pods.running))
        yield GaugeMetricFamily(names.PENDING_PROXIES, "Pods to be retried.", pods.pending)
        yield CounterMetricFamily(names.PROXIES_STARTED, "Proxies started.", pods.started)
        yield CounterMetricFamily(names.PROXIES_STOPPED, "Proxies stopped.", pods.stopped)
        build = GaugeMetricFamily(names.BUILD, "The build.", labels=["component", "tag"])
        build.add_metric(["ztunnel", version("ambient-mesh")], 1)
        yield build
