"""When a certificate is renewed, and how long to wait after a failure."""

from __future__ import annotations

from typing import Final

from ambient.identity.core.svid import Svid

FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 150.0
"""ztunnel src/identity/manager.rs: doubling from about 1 s, at most 150 s, +-20 %."""
RETRY_SPREAD: Final = 0.2
RENEWAL_SPREAD: Final = 0.1
"""Of the lifetime, so that the pods of a node do not renew all at once."""


def renew_at(svid: Svid, jitter: float) -> float:
    """Half of the lifetime, later by up to a tenth of it; ``jitter`` is in [0, 1).

    Seconds since the epoch.
    """
    life_s = svid.not_after_s - svid.not_before_s
    return svid.not_before_s + life_s * (0.5 + RENEWAL_SPREAD * jitter)


def retry_delay_s(failures: int, jitter: float) -> float:
    """The wait after the ``failures``-th failure in a row (from 1); ``jitter`` is in [0, 1)."""
    doubled = FIRST_RETRY_S * 2.0 ** min(failures - 1, 20)
    return min(doubled, LONGEST_RETRY_S) * (1 + RETRY_SPREAD * (2 * jitter - 1))
