"""Names out of the cluster when a shell completes, in real shells; never an error, never a wait."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.ambientctl.conftest import serving
from tests.unit.ambientctl.meshes import build
from tests.unit.ambientctl.test_bad_input import kubeconfig

BIN = Path(sys.executable).parent
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


def environment(kubeconfig):
    path = f"{BIN}:{os.environ['PATH']}"
    return os.environ | {"KUBECONFIG": str(kubeconfig), "PATH": path}


def completed(kubeconfig, *lines):
    """What bash would offer at the end of each line."""
    words = ["bash", "--norc", "-c", BASH, "bash", *(f"ambientctl {line}" for line in lines)]
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment(kubeconfig), timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split("\n")[:-1]


def test_names_in_bash(mesh):
    wanted = {
        "waypoint list -n ist": "istio-system",
        "-n sh": "shop",
        "describe pod -n shop re": "reviews-1",
        "-n shop describe pod w": "waypoint-1",
        "-n shop zc workload deploy/": "deploy/web",
        "describe service detail": "",
        "describe service details.": "details.shop",
        "why shop/det": "shop/details-1",
        "zc workload --node ": "node-1 node-2",
        "pc route -n shop ": "waypoint",
        "ps zt": "ztunnel-1.istio-system ztunnel-2.istio-system",
        "ps -r ": "canary",
        "tag remove ": "prod",
        "waypoint delete -n shop waypoint ": "",
        "zc cert": "certificate",
    }
    assert dict(zip(wanted, completed(mesh.kubeconfig, *wanted), strict=True)) == wanted


def test_contexts_are_read_from_the_file_alone(tmp_path):
    assert completed(kubeconfig(tmp_path), "--context ", "zc log --context ") == ["x", "x"]


def test_a_cluster_that_does_not_answer_is_not_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = kubeconfig(tmp_path, f"https://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert completed(path, "describe namespace ") == [""]
        assert time.monotonic() - began < 60  # not the client's own patience


def test_a_credential_plugin_that_hangs_is_not_waited_for(tmp_path):
    path = Path(kubeconfig(tmp_path))
    plugin = '{"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", ' \
        '"args": ["600"], "interactiveMode": "Never"}}'  # fmt: skip
    path.write_text(path.read_text().replace('{"token": "t"}', plugin))
    assert completed(path, "describe namespace ") == [""]


@pytest.mark.parametrize("config", ["/dev/null", "/nowhere"])
def test_nothing_is_said_of_what_is_wrong(config):
    assert completed(config, "describe namespace ", "--context ", "zc cert") == [
        "", "", "certificate",
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh: apt-get install zsh")
def test_the_script_of_zsh_is_understood_there(mesh):
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH], capture_output=True, text=True, env=environment(mesh.kubeconfig)
    )
    assert "_ambientctl_completion: function" in done.stdout, done


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish: apt-get install fish")
def test_names_in_fish(mesh):
    script = "ambientctl completion fish | source; complete -C 'ambientctl zc workload --node '"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True, text=True, env=environment(mesh.kubeconfig),
    )  # fmt: skip
    assert done.stdout.split() == ["node-1", "node-2"], done
