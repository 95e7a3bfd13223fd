"""A ring of hashes (Ketama), as Envoy builds and reads it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import xxhash

LARGEST_SIZE: Final = 8 * 1024 * 1024
"""Envoy's ``maximum_ring_size``."""


class HashRing:
    """Points on a ring, each with the index of an endpoint."""

    def __init__(self, keys: Sequence[str], weights: Sequence[float], minimum: int) -> None:
        """``keys`` name the endpoints (address and port); the lightest one gets at least a point
        for each whole part of ``minimum`` that its weight is worth."""
        total = sum(weights)
        points: list[tuple[int, int]] = []
        if keys:
            lightest = min(weights) / total
            scale = min(math.ceil(lightest * minimum) / lightest, LARGEST_SIZE)
            made, wanted = 0, 0.0
            for index, (key, weight) in enumerate(zip(keys, weights, strict=True)):
                wanted += scale * weight / total
                number = 0
                while made < wanted - 1e-9:
                    points.append((xxhash.xxh64_intdigest(f"{key}_{number}".encode()), index))
                    made, number = made + 1, number + 1
        points.sort()
        self._hashes = [point for point, _ in points]
        self._indices = [index for _, index in points]

    def __len__(self) -> int:
        return len(self._hashes)

    def pick(self, value: int, attempt: int = 0) -> int:
        """Index of the endpoint for a hash; each further ``attempt`` takes the next point."""
        return self._indices[(bisect_left(self._hashes, value) + attempt) % len(self._indices)]
