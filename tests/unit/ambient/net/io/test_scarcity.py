"""Whose fault it is that a connection failed."""

from __future__ import annotations

import errno
import ssl

import pytest

from ambient.net.io.scarcity import is_scarcity


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (OSError(errno.EMFILE, "x"), True),
        (OSError(errno.ENOBUFS, "x"), True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), False),
        (ssl.SSLError(errno.EMFILE, "x"), False),
        (ValueError("x"), False),
    ],
)
def test_scarcity(error, ours):
    assert is_scarcity(error) is ours
