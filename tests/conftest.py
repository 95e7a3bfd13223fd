"""For all tests."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")

# A shell that started us in the background lets us and our children ignore Ctrl-C: tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

WITH_NAMESPACES = {"netns", "e2e", "scenarios"}
"""Folders all of whose tests need them; in others a test is marked ``netns``."""

SHARED = "tests/scenarios/"
"""A folder whose files share a mesh: one worker takes them all."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files are handed out one by one (``--dist loadfile``), those of ``SHARED`` together."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            path = super()._split_scope(nodeid)
            return SHARED if path.startswith(SHARED) else path

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items):
    """Where ``tests/sandbox`` could make no namespaces, what needs them is skipped."""
    if reason := os.environ.get("NO_SANDBOX"):
        skip = pytest.mark.skip(reason=f"needs namespaces: {reason}")
        for item in items:
            folder = item.path.relative_to(Path(__file__).parent).parts[0]
            if folder in WITH_NAMESPACES or item.get_closest_marker("netns"):
                item.add_marker(skip)
