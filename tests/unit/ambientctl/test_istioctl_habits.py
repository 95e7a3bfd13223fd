"""Somebody who knows istioctl is understood, or told what is instead."""

from __future__ import annotations

import pytest

from tests.unit.ambientctl.conftest import run_command
from tests.unit.ambientctl.meshes import build, istiod

OPERATOR = """
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec: {profile: ambient}
"""


def run(*words):
    return run_command([*words], "", {"KUBECONFIG": "/dev/null"})


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (("kube-inject", "-f", "x"), "no sidecars", "ambientctl migrate"),
        (("x", "check-inject", "pod/x"), "no sidecars", "dataplane-mode=ambient"),
        (("x", "metrics", "reviews"), "another command", "ambientctl top"),
        (("pc", "listener", "x"), "no Envoys", "proxy-config route"),
        (("proxy-config", "bootstrap", "x"), "no Envoys", "proxy-config all"),
        (("validate", "-f", "x"), "analyze", "--no-use-kube"),
        (("manifest", "diff", "a", "b"), "by diff", "--dry-run"),
        (("manifest",), "by the installer", "--dry-run"),
        (("profile", "list"), "option of the installer", "install --help"),
    ],
)
def test_a_command_that_is_not_here_names_what_is(words, said, hint):
    done = run(*words)
    assert done.status == 2
    assert said in done.err
    assert hint in done.err.partition("hint: ")[2]


@pytest.mark.parametrize(
    "words",
    [
        ("version", "--remote=false"), ("version", "--short=true"),
        ("version", "--remote=false", "--revision", "x", "--kubeclient-timeout", "3s"),
        ("analyze", "--use-kube=false", "-v", "--timeout", "30s", "-", "--ignore-unknown"),
        ("waypoint", "generate", "-i", "istio-system", "--vklog", "2"),
        ("tag", "generate", "prod", "-r", "x", "--overwrite", "--webhook-name", "y"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_that_change_nothing_and_booleans_are_taken(words):
    done = run(*words)
    assert done.status == 0, done


def test_a_boolean_of_false_is_its_opposite_and_words_of_others_stay():
    assert run("version", "--short=false", "--no-remote").out.startswith("client version: ")
    assert run("version", "--remote=maybe").status == 2
    assert "--lost" in run("version", "--lost=false").err
    generated = run("waypoint", "generate", "--name=true", "--for=all")
    assert "name: 'true'" in generated.out


def test_help_as_a_command():
    assert run("help", "waypoint", "list").out == run("waypoint", "list", "--help").out
    assert run("help").out == run("--help").out
    assert run("help", "version", "x").status == 2


def test_manifest_generate_is_a_dry_run_of_the_installation(tmp_path):
    assert run("manifest", "generate").out == run("install", "--dry-run").out
    path = tmp_path / "operator.yaml"
    path.write_text(OPERATOR)
    done = run("install", "-f", str(path), "--dry-run")
    assert done.status == 1
    assert f"{path} is an IstioOperator" in done.err


def test_words_for_tables_are_the_same_everywhere(ambientctl):
    build(ambientctl, policies="")
    istiod(ambientctl)
    table = ambientctl.ok("ps")
    for word in ("short", "wide", "text", "table"):
        assert ambientctl.ok("ps", "-o", word, "-A") == table
    assert ambientctl("ps", "-o", "xml").status == 2
