"""A cluster in which nothing is installed and nothing moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.ambientctl.conftest import CommandLine, serving


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """It changes at once or never: who waits for it need not wait long."""
    for module in ("applying", "uninstall"):
        monkeypatch.setattr(f"ambientctl.install.{module}.LOOK_S", 0.05)
    with serving(tmp_path, crds=False, controllers=False) as command_line:
        command_line.node("node-1")
        yield command_line
