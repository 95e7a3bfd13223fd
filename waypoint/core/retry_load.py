"""What a retry budget over an interval counts: requests and retries of the last while."""

from __future__ import annotations

from typing import NamedTuple

from waypoint.core.connection_pool import RetryBudget
from waypoint.core.rate_window import RateWindow


class RetryLoad(NamedTuple):
    """Of one cluster. Retries are counted twice: for the budget, and for the least rate."""

    requests: RateWindow
    """Tries, the first of a request and its retries alike (GEP-3388: active requests)."""
    retries: RateWindow
    recent: RateWindow

    @classmethod
    def of(cls, budget: RetryBudget | None) -> RetryLoad | None:
        """None where the budget, if any, is of the requests in flight."""
        if budget is None or not budget.interval_s:
            return None
        of_interval = RateWindow(budget.interval_s), RateWindow(budget.interval_s)
        return cls(*of_interval, RateWindow(budget.rate_s))

    def retried(self, now_s: float) -> None:
        """A retry was decided."""
        self.retries.note(now_s)
        self.recent.note(now_s)

    def room(self, budget: RetryBudget, now_s: float) -> bool:
        """Whether another retry is within the budget, or below the least rate."""
        if self.recent.count(now_s) < budget.min_rate:
            return True
        return self.retries.count(now_s) < budget.allowed(self.requests.count(now_s))
