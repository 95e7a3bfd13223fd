"""Recording rules and alerts, judged by Prometheus' own tool."""

from __future__ import annotations

import itertools
import re
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


def test_every_alert_has_its_section_of_the_playbook() -> None:
    for rule in alerts():
        path, _, anchor = rule["annotations"]["playbook"].partition("#")
        heads = re.findall(r"^## (.+)$", Path(path).read_text(), re.MULTILINE)
        assert anchor in {head.lower().replace(" ", "-") for head in heads}, rule["alert"]


def test_the_commands_of_runbooks_exist() -> None:
    """As the reference, which is made from the code, has them."""
    reference = Path("docs/ambientctl-reference.md").read_text()
    for rule in alerts():
        words = rule["annotations"]["runbook"].split()
        if words[0] != "ambientctl":
            continue
        name = " ".join(itertools.takewhile(lambda word: word[0].isalpha(), words))
        section = reference.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        assert all(one in section for one in words if one.startswith("--")), words
