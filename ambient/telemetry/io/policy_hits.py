"""How often each policy decided: the ones that never do can go, the ones that begin to are news."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.telemetry.core import metric_names as names

ALLOW: Final = "allow"
DENY: Final = "deny"


class PolicyHits(Collector):
    """Counts by ``namespace/name`` of policies."""

    def __init__(self) -> None:
        self._decisions: dict[tuple[str, str], int] = {}
        self._would_deny: dict[str, int] = {}

    def decided(self, policy: str, *, allowed: bool) -> None:
        """A connection or request; nothing is counted where no policy decided."""
        if policy:
            key = (policy, ALLOW if allowed else DENY)
            self._decisions[key] = self._decisions.get(key, 0) + 1

    def would_deny(self, policies: Iterable[str]) -> None:
        """These dry-run policies would have refused one."""
        for policy in policies:
            self._would_deny[policy] = self._would_deny.get(policy, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """The families that have samples."""
        if self._decisions:
            text = "Connections and requests that a policy decided about."
            family = CounterMetricFamily(
                names.POLICY_DECISIONS, text, labels=["policy", "decision"]
            )
            for key, count in self._decisions.items():
                family.add_metric(key, count)
            yield family
        if self._would_deny:
            text = "Connections and requests that a dry-run policy would have refused."
            family = CounterMetricFamily(names.DRY_RUN_DENIALS, text, labels=["policy"])
            for policy, count in self._would_deny.items():
                family.add_metric([policy], count)
            yield family
