"""The metrics of several processes as if one had counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

_NOT_SUMMED: Final[dict[str, Callable[[float, float], float]]] = {
    "istio_build": max,
    "process_max_fds": max,
    "process_start_time_seconds": min,
}


def add_up(expositions: Iterable[str]) -> list[Metric]:
    """The sum of several expositions in Prometheus's text format."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in expositions:
        for family in text_string_to_metric_families(text):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            together = _NOT_SUMMED.get(family.name, float.__add__)
            sums = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                known = sums.get(key)
                sums[key] = sample.value if known is None else together(known, sample.value)
    for name, family in families.items():
        for (sample_name, labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    return list(families.values())
