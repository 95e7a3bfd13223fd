"""Response flags in their three forms."""

from __future__ import annotations

import pytest

from waypoint.core.response_flags import as_number, long_form


@pytest.mark.parametrize(
    ("flags", "text", "number"),
    [
        ("-", "-", 0),
        ("UC", "UpstreamConnectionTermination", 0x40),
        ("URX,UF", "UpstreamRetryLimitExceeded,UpstreamConnectionFailure", 0x8020),
        ("UDO", "UnconditionalDropOverload", 0x20000000),
        ("new", "new", 0),
    ],
)
def test_forms(flags, text, number):
    assert (long_form(flags), as_number(flags)) == (text, number)
