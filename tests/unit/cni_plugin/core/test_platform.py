"""Which folders belong to which distribution."""

from __future__ import annotations

import pytest

from cni_plugin.core.platform import PLATFORMS, detect

STANDARD = {"/etc/cni/net.d", "/opt/cni/bin"}


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda each: each.name)
def test_pain_44_each_distribution_is_known_by_its_mark(platform) -> None:
    there = {platform.mark, platform.net_dir, platform.bin_dir} | STANDARD
    assert detect(there.__contains__) == platform


def test_folders_that_are_missing_are_not_chosen() -> None:
    assert detect({"/var/lib/rancher/k3s", *STANDARD}.__contains__) == PLATFORMS[-1]
    assert detect(lambda path: False) is None
