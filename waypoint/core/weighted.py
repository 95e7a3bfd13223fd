"""Weighted round robin: earliest deadline first, as Envoy does it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence


class Schedule:
    """Picks indices so that each gets its weight's part, evenly spread.

    ``weight`` is asked again each time an index was picked, so that it may depend on load.
    """

    def __init__(self, size: int, weight: Callable[[int], float], draw: float) -> None:
        """``draw`` in [0, 1) says where the schedule starts."""
        self._weight = weight
        self._order = size
        self._heap = [(1 / weight(index), index, index) for index in range(size)]
        heapq.heapify(self._heap)
        for _ in range(int(draw * size)):
            self.pick()

    def pick(self) -> int:
        """The next index."""
        deadline, _, index = self._heap[0]
        self._order += 1
        again = deadline + 1 / self._weight(index)
        heapq.heapreplace(self._heap, (again, self._order, index))
        return index


def draw_weighted(weights: Sequence[float], draw: float) -> int:
    """An index for a draw in [0, 1); at least one weight is above 0."""
    point = draw * sum(weights)
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return max(index for index, weight in enumerate(weights) if weight > 0)
