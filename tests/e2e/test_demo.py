"""The demo, as the README tells a newcomer to run it, with and without root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bpf import unavailable

AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
DEADLINE_S = 60
"""Only a failure waits this long."""
PROMISED = [
    "local-mesh-up",
    "plain-http-before",
    "readable-on-the-link-before",
    "long-lived-connection-open",
    "namespace-labelled",
    "same-process-ids",
    "long-lived-connection-survives",
    "new-connections-are-hbone",
    "both-spiffe-ids-in-access-log",
    "outsider-reaches-services-permissive",
    "outsider-refused-under-strict",
    "policy-denies-one-service-account",
    "why-names-the-rule",
    "waypoint-splits-90-10",
    "l7-rule-denies-delete",
    "unlabelled-works-in-plaintext",
    "nothing-left-behind",
]


def ambientctl(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AMBIENTCTL, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"XDG_STATE_HOME": str(state)},
    )


def play(state: Path, *options: str) -> tuple[list[str], str]:
    """The names of the demo's checks, none of which failed, and all that it said."""
    done = ambientctl(state, "demo", "--json", *options)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    told = f"{json.dumps(report, indent=1)}\n{done.stderr}"
    failed = [check for check in report["checks"] if not check["ok"]]
    assert failed == [], told
    assert report["ok"] is True, told
    assert done.returncode == 0, told
    return [check["name"] for check in report["checks"]], told


@pytest.mark.parametrize("options", [(), ("--rootless",)], ids=["root", "rootless"])
def test_every_step_of_the_demo_is_true(options: tuple[str, ...], tmp_path: Path) -> None:
    names, told = play(tmp_path, *options)
    assert names == PROMISED, told
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "ambient-mesh"]), told


@pytest.mark.skipif(bool(unavailable()), reason=unavailable())
def test_every_step_is_true_with_ebpf(tmp_path: Path) -> None:
    """The same story; and it is eBPF that redirects, not what takes its place where it cannot."""
    try:
        names, told = play(tmp_path, "--redirection", "ebpf", "--keep")
        assert names == PROMISED[:-1], told
        kubeconfig = tmp_path / "ambient-mesh/demo/kubeconfig"
        label = ("label", "namespace", "bookinfo", "istio.io/dataplane-mode=ambient")
        subprocess.run(["kubectl", "--kubeconfig", kubeconfig, *label], check=True)
        deadline = time.monotonic() + DEADLINE_S
        while not (enrolled := [pod for pod in status(tmp_path)["pods"] if pod["enrolled"]]):
            assert time.monotonic() < deadline, "no pod has joined"
            time.sleep(0.1)
        nodes = status(tmp_path)["nodes"]
        assert [node["redirection"] for node in nodes] == ["ebpf", "ebpf"]
        assert sum(node["ebpf_pods"] for node in nodes) >= len(enrolled)
    finally:
        ambientctl(tmp_path, "local", "down", "--name", "demo")
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "ambient-mesh"])


def status(state: Path) -> dict[str, Any]:
    told = ambientctl(state, "local", "status", "--name", "demo", "-o", "json").stdout
    found: dict[str, Any] = json.loads(told)
    return found
