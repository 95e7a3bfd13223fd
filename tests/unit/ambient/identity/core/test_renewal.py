"""When certificates are renewed, and how failures are spaced."""

import pytest

from ambient.api.spiffe import Identity
from ambient.identity.core.renewal import renew_at, retry_delay_s
from ambient.identity.core.svid import Svid


@pytest.mark.parametrize(("jitter", "when"), [(0.0, 1500.0), (0.5, 1550.0), (0.999, 1599.9)])
def test_half_of_the_lifetime_later_by_up_to_a_tenth(jitter, when):
    svid = Svid(Identity("td", "a", "b"), b"", b"", b"", 1000.0, 2000.0)
    assert renew_at(svid, jitter) == pytest.approx(when)


@pytest.mark.parametrize(
    ("failures", "delay"), [(1, 1), (2, 2), (3, 4), (8, 128), (9, 150), (10_000, 150)]
)
def test_retries_double_up_to_a_limit(failures, delay):
    assert retry_delay_s(failures, 0.5) == pytest.approx(delay)
    assert retry_delay_s(failures, 0.0) == pytest.approx(delay * 0.8)
    assert retry_delay_s(failures, 0.999999) == pytest.approx(delay * 1.2)
