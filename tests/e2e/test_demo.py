"""The demo, as the README tells a newcomer to run it, with and without root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
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


@pytest.mark.parametrize("options", [(), ("--rootless",)], ids=["root", "rootless"])
def test_every_step_of_the_demo_is_true(options: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [AMBIENTCTL, "demo", "--json", *options],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path)},
    )

    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    told = f"{json.dumps(report, indent=1)}\n{done.stderr}"
    failed = [check for check in report["checks"] if not check["ok"]]
    assert failed == [], told
    assert [check["name"] for check in report["checks"]] == PROMISED, told
    assert report["ok"] is True, told
    assert done.returncode == 0, told
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "ambient-mesh"]), told
