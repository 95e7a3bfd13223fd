"""Commands tell about themselves: reference, help, completion, explanations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ambient.kube.core.objects import AuthorizationPolicy, decode
from ambientctl.__main__ import cli
from ambientctl.commands import COMMANDS, GROUPS
from ambientctl.reference import reference
from ambientctl.support_matrix import MATRIX, NO, YES
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.policies import translate
from istiod_lite.core.validation.objects import KINDS
from tests.unit.ambientctl.conftest import run_command

ROOT = Path(__file__).parents[3]


def test_the_reference_is_that_of_the_program():
    page = ROOT / "docs" / "ambientctl-reference.md"
    assert page.read_text() == reference(), f"run python -m ambientctl.reference > {page}"


def every_command(group=cli, way=()):
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        yield (*way, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*way, name))


def test_every_command_has_a_help_and_every_command_of_the_cluster_takes_its_options():
    for way, command in every_command():
        assert command.help, way
        options = {name for one in command.params for name in one.opts}
        if "--kubeconfig" in options:
            assert {"--context", "--namespace", "-n", "-c"} <= options, way
            assert {"--as", "--as-group", "--as-uid"} <= options, way
    assert len(COMMANDS) > 20


def test_help_says_of_each_command_what_the_command_says_of_itself():
    ctx = click.Context(cli)
    for name, entry in COMMANDS.items():
        command = cli.get_command(ctx, name)
        assert entry.summary == command.get_short_help_str(200), name
    assert len(COMMANDS) == sum(map(len, GROUPS.values()))
    text = run_command(["--help"], "", {}).out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert all(f"\n{heading}:\n" in text for heading in GROUPS)


@pytest.mark.parametrize(
    "words", [("--help",), ("version", "--short"), ("completion", "bash"), ("explain",)]
)
def test_commands_without_a_cluster_do_not_load_what_speaks_to_one(words):
    slow = {"trio", "httpx", "httpcore", "kubernetes", "cryptography", "rich", "yaml", "grpc"}
    assert not slow & loaded(*words)


@pytest.mark.parametrize("words", [("version",), ("top",), ("graph",), ("zc", "workload")])
def test_commands_of_a_cluster_load_nothing_that_a_plain_kubeconfig_does_not_need(words, tmp_path):
    """A kubeconfig that runs no plugin is read without the package that runs them, and HTTP is
    spoken without a library that brings a command line of its own.
    """
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    found = loaded(*words, "-c", str(path))
    slow = {"kubernetes", "httpx", "rich", "cryptography", "grpc", "pygments", "waypoint",
            "istiod_lite", "ztunnel"}  # fmt: skip
    assert not slow & found
    assert {"httpcore", "trio"} <= found  # it did ask


def loaded(*words):
    """Packages that a command loads."""
    code = (
        "import sys\nfrom ambientctl.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_accepted_by_their_shells(shell, tmp_path):
    done = run_command(["completion", shell], "", {})
    assert "_AMBIENTCTL_COMPLETE" in done.out
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(done.out)
        subprocess.run([shell, "-n", str(path)], check=True)


def test_completion_completes_commands_of_groups_that_are_not_loaded_yet():
    program = Path(sys.executable).parent / "ambientctl"
    environment = os.environ | {
        "_AMBIENTCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "ambientctl ztunnel-config w",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert "plain,workload" in done.stdout.split()


# explain


def test_pain_42_explain_says_which_field_works_where():
    out = run_command(["explain", "authorizationpolicies"], "", {}).out
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert lines["to.operation.methods"][1:3] == ["-", "yes"]
    assert lines["from.source.principals"][1:3] == ["yes", "yes"]
    whole = json.loads(run_command(["explain", "-o", "json"], "", {}).out)
    assert set(whole) == set(MATRIX)
    assert "DestinationRule" in run_command(["explain"], "", {}).out
    lost = run_command(["explain", "authorizationpolcy"], "", {})
    assert lost.status == 2
    assert "did you mean AuthorizationPolicy?" in lost.err


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ("ap.spec.rules.to.operation.notPaths", ["to.operation.paths"]),
        ("authorizationpolicies.security.istio.io.targetRefs", ["targetRefs"]),
        ("pa.mtls", ["mtls.mode STRICT, PERMISSIVE", "mtls.mode DISABLE"]),
        ("httproute.spec.rules.timeouts.request", ["timeouts, retry, sessionPersistence"]),
        ("svc.metadata.labels.istio.io/use-waypoint", ["label istio.io/use-waypoint"]),
    ],
)
def test_explain_takes_the_path_of_a_field(asked, fields):
    found = json.loads(run_command(["explain", asked, "-o", "json"], "", {}).out)
    assert [row["field"] for row in found["fields"]] == fields


def test_explain_names_a_field_that_is_not_known():
    lost = run_command(["explain", "ap.spec.rules.whom"], "", {})
    assert lost.status == 2
    assert "field spec.rules.whom of AuthorizationPolicy" in lost.err


def test_every_kind_that_is_validated_is_explained():
    known = {kind for _, kind in KINDS} - {"WorkloadGroup", "ReferenceGrant"}
    assert known <= set(MATRIX)


def test_what_is_said_of_sources_and_operations_is_what_tunnels_do():
    """Each field alone in an ALLOW policy: either it is sent, or its rule is left out."""
    for row in MATRIX["AuthorizationPolicy"].rows:
        parts = row.field.split(".")
        if parts[0] not in ("from", "to"):
            continue
        value = {"ports": "80", "ipBlocks": "10.0.0.1", "remoteIpBlocks": "10.0.0.1"}
        entry = {parts[1]: {parts[2]: [value.get(parts[2], "a")]}}
        policy = {
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"rules": [{parts[0]: [entry]}]},
        }
        sent = translate(decode(policy, AuthorizationPolicy), MeshFacts()).authorization
        assert bool(sent.groups) is (row.tunnel == YES), row
        assert row.waypoint == YES
        assert row.tunnel in (YES, NO)
