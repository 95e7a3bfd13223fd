"""Dumps that were kept, instead of a program's answer."""

from __future__ import annotations

import json

import pytest

from tests.unit.ambientctl.conftest import run_command
from tests.unit.ambientctl.test_mesh_commands import DUMP


def run(*words, stdin=""):
    return run_command([*words], stdin, {"KUBECONFIG": "/nowhere"})


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(DUMP))
    return str(path)


def test_a_file_or_standard_input_without_any_cluster(dump):
    from_file = run("pc", "policy", "-f", dump)
    assert from_file.status == 0
    assert "shop/no-delete" in from_file.out
    assert run("pc", "policy", "-f", "-", stdin=json.dumps(DUMP)).out == from_file.out
    assert json.loads(run("pc", "all", "-f", dump).out) == DUMP


@pytest.mark.parametrize(
    ("words", "text", "status", "said"),
    [
        (("pc", "route", "-f", "-"), "{", 1, "- is no JSON"),
        (("pc", "route", "-f", "-"), "[]", 1, "no dump of a waypoint"),
        (("zc", "workload", "-f", "-"), "[]", 1, "no configuration of a ztunnel"),
        (("pc", "route", "-f", "/nowhere/x"), "", 2, "No such file"),
        (("pc", "route"), "", 2, "which waypoint?"),
    ],
)
def test_what_cannot_be_read(words, text, status, said):
    done = run(*words, stdin=text)
    assert (done.status, said in done.err) == (status, True), done
