"""What the xDS session counts, and how it is scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.telemetry.core import metric_names as names


class XdsStats(Collector):
    """Plain counters; register the object with a prometheus registry."""

    def __init__(self) -> None:
        self.terminations: Counter[str] = Counter()
        """By reason: ConnectionError, Reconnect, Error or Complete."""
        self.messages: Counter[str] = Counter()
        """Received responses by type URL."""
        self.message_bytes: Counter[str] = Counter()

    def collect(self) -> Iterator[Metric]:
        """The families that have samples."""
        families = (
            (names.XDS_TERMINATIONS, "Ended xDS streams.", "reason", self.terminations),
            (names.XDS_MESSAGES, "Responses received.", "url", self.messages),
            (names.XDS_MESSAGE_BYTES, "Bytes of responses.", "url", self.message_bytes),
        )
        for name, text, label, counts in families:
            if counts:
                family = CounterMetricFamily(name, text, labels=[label])
                for value, count in counts.items():
                    family.add_metric([value], count)
                yield family
