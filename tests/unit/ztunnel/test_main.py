"""The command line."""

import pytest

from ztunnel.__main__ import _take_workers


@pytest.mark.parametrize(
    ("words", "left", "workers"),
    [
        (["--workers", "4"], [], "4"),
        (["proxy", "ztunnel", "--workers=50%"], ["proxy", "ztunnel"], "50%"),
        (["--workers", "0", "proxy"], ["proxy"], "0"),
        (["proxy", "--workers"], ["proxy"], "?"),
        (["proxy", "ztunnel"], ["proxy", "ztunnel"], None),
    ],
)
def test_workers_may_stand_anywhere(words, left, workers, monkeypatch):
    environment = {}
    monkeypatch.setattr("os.environ", environment)
    assert _take_workers(words) == left
    assert environment.get("ZTUNNEL_WORKER_THREADS") == workers
