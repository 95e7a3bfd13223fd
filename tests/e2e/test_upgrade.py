"""`kubectl rollout restart` of the node tunnels in a local mesh, while its pods talk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
NAME = "upgrade"
LOAD = """
import http.client, json, os, time

def get(connection):
    connection.request("GET", "/reviews/0")
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise OSError(f"status {answer.status}")

def connect():
    return http.client.HTTPConnection("reviews", 9080, timeout=20)

stays, done, failed = connect(), 0, []
get(stays)
print("started", flush=True)
while not os.path.exists(STOP):
    try:
        comes = connect()
        get(comes)
        comes.close()
        done += 1
    except (OSError, http.client.HTTPException) as error:
        failed.append(f"new: {error!r}")
    try:
        get(stays)
    except (OSError, http.client.HTTPException) as error:
        failed.append(f"established: {error!r}")
        stays = connect()
    time.sleep(0.01)
stays.close()
print(json.dumps({"done": done, "failed": failed}))
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A mesh with the sample in it, and how to talk to it."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run(AMBIENTCTL, "local", "up", "--name", NAME)
    try:
        config = run(AMBIENTCTL, "local", "kubeconfig", "--name", NAME).strip()
        yield ["kubectl", "--kubeconfig", config]
    finally:
        run(AMBIENTCTL, "local", "down", "--name", NAME)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tunnels(kubectl: list[str]) -> set[str]:
    """The names of ztunnel pods that are not about to end."""
    found = json.loads(
        run(*kubectl, "get", "pods", "-n", "istio-system", "-l", "app=ztunnel", "-o", "json")
    )
    pods = [pod["metadata"] for pod in found["items"]]
    return {pod["name"] for pod in pods if not pod.get("deletionTimestamp")}


def until_enrolled(kubectl: list[str]) -> None:
    """Every pod of the namespace is in the mesh."""
    path = "jsonpath={.metadata.annotations.ambient\\.istio\\.io/redirection}=enabled"
    run(*kubectl, "wait", "pod", "--all", "-n", "bookinfo", f"--for={path}", "--timeout=60s")


def test_pain_12_rollout_restart_of_ztunnel_loses_nothing(
    kubectl: list[str], tmp_path: Path
) -> None:
    run(*kubectl, "label", "namespace", "bookinfo", "istio.io/dataplane-mode=ambient")
    until_enrolled(kubectl)
    before = tunnels(kubectl)
    stop = tmp_path / "stop"
    script = f"STOP = {str(stop)!r}\n{LOAD}"
    inside = [AMBIENTCTL, "local", "exec", "client", "-n", "bookinfo", "--name", NAME, "--"]
    load = subprocess.Popen([*inside, "python3", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert load.stdout is not None
        assert load.stdout.readline() == "started\n"
        daemon_set = ("daemonset/ztunnel", "-n", "istio-system")
        run(*kubectl, "rollout", "restart", *daemon_set)
        run(*kubectl, "rollout", "status", *daemon_set, "--timeout=90s")
        assert len(before) == len(tunnels(kubectl)) == 2
        assert not before & tunnels(kubectl)
        stop.touch()
        out, _ = load.communicate(timeout=60)
    finally:
        load.kill()
        load.communicate()
    report = json.loads(out)
    assert report["failed"] == []
    assert report["done"] > 20
