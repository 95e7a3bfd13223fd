from __future__ import annotations

import pytest

from tests.unit.ambientctl.local.worlds import World


@pytest.fixture
def world() -> World:
    return World()
