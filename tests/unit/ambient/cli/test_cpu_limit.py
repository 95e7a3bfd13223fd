"""The CPU limit of a container, as its cgroup says it."""

from __future__ import annotations

import pytest

from ambient.cli.cpu_limit import cpu_limit


@pytest.fixture
def tree(tmp_path):
    def make(own: str, files: dict[str, str]) -> float | None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cpu_limit(tmp_path / "cgroup", tmp_path / "own")

    return make


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        (
            "0::/kubepods/pod1/c1\n",
            {
                "kubepods/cpu.max": "max 100000",
                "kubepods/pod1/cpu.max": "150000 100000",
                "kubepods/pod1/c1/cpu.max": "200000 100000",
            },
            1.5,
        ),
        (
            "5:memory:/x\n4:cpu,cpuacct:/x\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            "1:cpu:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("garbage\n0::/\n", {"cpu.max": "many"}, None),
        ("0::/\n", {"cpu.max": "1000 0"}, None),
    ],
    ids=["v2", "v2 none", "no files", "parents", "v1", "v1 none", "garbage", "no period"],
)
def test_quotas(tree, own, files, limit):
    assert tree(own, files) == limit


def test_a_system_without_cgroups(tmp_path):
    assert cpu_limit(tmp_path / "cgroup", tmp_path / "own") is None
