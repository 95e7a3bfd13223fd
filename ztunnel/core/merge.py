"""What several workers say, as if one tunnel had said it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

Json = dict[str, Any]

_NOT_SUMMED: Final[dict[str, Callable[[float, float], float]]] = {
    "istio_build": max,
    "process_max_fds": max,
    "process_start_time_seconds": min,
}
_LISTS: Final[dict[str, tuple[str, ...]]] = {
    "workloads": ("uid",),
    "services": ("namespace", "hostname"),
    "policies": ("namespace", "name"),
    "certificates": ("identity",),
}
"""Lists of a configuration dump, and what tells two entries of each apart."""


def metrics(expositions: Iterable[str]) -> list[Metric]:
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


def config_dumps(dumps: Sequence[Json]) -> Json:
    """One ``/config_dump`` of several; what workers have in common is the first one's."""
    merged: Json = {}
    for dump in dumps:
        for part, content in dump.items():
            if part in _LISTS:
                merged.setdefault(part, []).extend(content)
            elif isinstance(content, dict) and part == "workloadState":
                merged.setdefault(part, {}).update(content)
            else:
                merged.setdefault(part, content)
    for part, names in _LISTS.items():
        if part in merged:
            merged[part] = _distinct(merged[part], names)
    return merged


def _distinct(entries: Iterable[Json], names: tuple[str, ...]) -> list[Json]:
    found: dict[tuple[str, ...], Json] = {}
    for entry in entries:
        found.setdefault(tuple(str(entry.get(name, "")) for name in names), entry)
    return [found[key] for key in sorted(found)]
