"""Recording rules and alerts, judged by Prometheus' own tool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

RULES = Path("manifests/observability/prometheus/rules")
CASES = Path("tests/observability/alerts.yaml")


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("apt-get install --no-install-recommends prometheus")
    return found


def alerts() -> list[dict]:
    groups = yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_prometheus_reads_the_rules(promtool: str) -> None:
    for path in sorted(RULES.glob("*.yaml")):
        done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_raised_by_what_it_is_for(promtool: str) -> None:
    done = subprocess.run([promtool, "test", "rules", CASES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_without_a_case() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    raised = {
        case["alertname"]
        for each in cases
        for case in each["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert raised == {rule["alert"] for rule in alerts()}


def test_every_alert_says_how_bad_it_is_and_where_to_look() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) >= {"summary", "runbook"}
