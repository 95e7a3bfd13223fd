"""Fixtures of the tests in network namespaces."""

import os

import pytest

from tests.netns.lan import Lan


@pytest.fixture
def lan():
    """A fresh bridge for one test."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root; tests/sandbox gives it")
    made = Lan()
    yield made
    made.close()
