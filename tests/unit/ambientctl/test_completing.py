"""Names out of the cluster when a shell completes, in real shells; never an error, never a wait."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from ambientctl.__main__ import cli
from ambientctl.completing import PATIENCE
from ambientctl.completion import VARIABLE
from tests.unit.ambientctl.conftest import serving
from tests.unit.ambientctl.meshes import build
from tests.unit.ambientctl.test_bad_input import kubeconfig

BIN = Path(sys.executable).parent
PATIENT = {PATIENCE: "60"}
"""A busy machine answers late; that nobody waits is another test's matter."""
TAG = """
apiVersion: v1
kind: Service
metadata: {name: istiod-revision-tag-prod, namespace: istio-system,
           labels: {app: istiod, istio.io/tag: prod, istio.io/rev: default}}
spec: {ports: [{port: 15012}]}
---
apiVersion: v1
kind: Service
metadata: {name: istiod-canary, namespace: istio-system, labels: {app: istiod}}
spec: {ports: [{port: 15012}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
"""
BASH = """
source <(ambientctl completion bash)
for line; do
  IFS=' ' read -ra COMP_WORDS <<< "$line"
  [ "${line% }" = "$line" ] || COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]}-1)) COMPREPLY=()
  _ambientctl_completion ambientctl
  (IFS=' '; echo "${COMPREPLY[*]}")
done
"""
ZSH = """
autoload -U compinit; compinit -u
compdef() { :; }
_describe() { :; }
compadd() { shift; shift; print -r -- "${(P)@[-1]}"; }
source <(ambientctl completion zsh)
whence -w _ambientctl_completion
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("mesh"), controllers=False) as command_line:
        build(command_line, policies="")
        command_line.apply(TAG)
        yield command_line


def environment(kubeconfig, **more):
    path = f"{BIN}:{os.environ['PATH']}"
    return os.environ | {"KUBECONFIG": str(kubeconfig), "PATH": path, **more}


def completed(kubeconfig, *lines, **more):
    """What bash would offer at the end of each line."""
    words = ["bash", "--norc", "-c", BASH, "bash", *(f"ambientctl {line}" for line in lines)]
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment(kubeconfig, **more), timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("-n shop waypoint list -n ist", "istio-system"),
        ("describe pod -n shop re", "reviews-1"),
        ("-n shop describe pod w", "waypoint-1"),
        ("zc workload -n shop deploy/", "deploy/web"),
        ("describe service detail", ""),
        ("describe service details.", "details.shop"),
        ("why shop/det", "shop/details-1"),
        ("zc workload --node ", "node-1 node-2"),
        ("pc route -n shop ", "waypoint"),
        ("ps zt", "ztunnel-1.istio-system ztunnel-2.istio-system"),
        ("ps -r ", "canary"),
        ("tag remove ", "prod"),
        ("waypoint delete -n shop way", "waypoint"),
        ("waypoint delete -n shop waypoint ", ""),
        ("migrate plan -i istio-system --context ", "@ours"),
    ],
)
def test_names(mesh, monkeypatch, line, names):
    monkeypatch.setenv("KUBECONFIG", str(mesh.kubeconfig))
    monkeypatch.setenv(PATIENCE, "60")
    if names == "@ours":
        names = json.loads(mesh.kubeconfig.read_text())["current-context"]
    *words, last = line.split(" ")
    found = ShellComplete(cli, {}, "ambientctl", VARIABLE).get_completions(words, last)
    assert " ".join(one.value for one in found) == names


def test_names_in_bash(mesh):
    wanted = {"zc workload --node ": "node-1 node-2", "-n shop describe pod re": "reviews-1"}
    assert dict(zip(wanted, completed(mesh.kubeconfig, *wanted, **PATIENT), strict=True)) == wanted


def test_contexts_are_read_from_the_file_alone(tmp_path):
    assert completed(kubeconfig(tmp_path), "zc log --context ") == ["x"]


def test_a_cluster_that_does_not_answer_is_not_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the client's own patience is longer
        path = kubeconfig(tmp_path, f"https://127.0.0.1:{silent.getsockname()[1]}")
        assert completed(path, "describe namespace ") == [""]


def test_a_credential_plugin_that_hangs_is_not_waited_for(tmp_path):
    path = Path(kubeconfig(tmp_path))
    plugin = '{"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", ' \
        '"args": ["600"], "interactiveMode": "Never"}}'  # fmt: skip
    path.write_text(path.read_text().replace('{"token": "t"}', plugin))
    assert completed(path, "describe namespace ") == [""]


def test_nothing_is_said_of_what_is_wrong():
    assert completed("/nowhere", "describe namespace ", "--context ", "zc cert") == [
        "", "", "certificate",
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh: apt-get install zsh")
def test_the_script_of_zsh_is_understood_there(mesh):
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH],
        capture_output=True,
        text=True,
        env=environment(mesh.kubeconfig, **PATIENT),
    )
    assert "_ambientctl_completion: function" in done.stdout, done


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish: apt-get install fish")
def test_names_in_fish(mesh):
    script = "ambientctl completion fish | source; complete -C 'ambientctl zc workload --node '"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True, text=True, env=environment(mesh.kubeconfig, **PATIENT),
    )  # fmt: skip
    assert done.stdout.split() == ["node-1", "node-2"], done
