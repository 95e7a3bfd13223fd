"""``ambientctl local`` as a user runs it: up, use, down, and nothing is left."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
DEADLINE_S = 60
"""Only a failure waits this long."""
HANGS_S = 360
"""More than any command waits itself; before that it says what it waited for."""


class Host:
    """The user's shell: runs commands with a state folder of its own, and sees what is left."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.environment = os.environ | {"XDG_STATE_HOME": str(state)}
        self._before = traces()

    def run(self, *command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=HANGS_S,
        )

    def local(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(AMBIENTCTL, "local", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """One error line and its hint, without a traceback."""
        done = self.run(AMBIENTCTL, "local", *arguments)
        assert done.returncode in (1, 2), (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr

    def status(self, name: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.local("status", "--name", name, "-o", "json"))
        return found

    def kubectl(self, *arguments: str, name: str = "default", stdin: str = "") -> str:
        kubeconfig = self.state / "ambient-mesh" / name / "kubeconfig"
        done = self.run("kubectl", "--kubeconfig", kubeconfig, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def left(self) -> dict[str, set[str]]:
        """Processes, network namespaces, mounts and files that were not there at first."""
        now = traces()
        new = {kind: now[kind] - self._before[kind] for kind in now}
        new["files"] = {str(path) for path in self.state.rglob("*")}
        return {kind: found for kind, found in new.items() if found}


def traces() -> dict[str, set[str]]:
    processes, namespaces = set(), set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            namespaces.add(os.readlink(process / "ns/net"))
        except OSError:
            continue  # it ended meanwhile
        if command:  # a zombie has none
            processes.add(f"{process.name} {command}")
    return {
        "processes": processes,
        "namespaces": namespaces,
        "mounts": set(Path("/proc/self/mounts").read_text().splitlines()),
    }


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    for mesh in (tmp_path / "ambient-mesh").glob("*"):  # of a test that failed half way
        host.run(AMBIENTCTL, "local", "down", "--name", mesh.name)


@pytest.mark.parametrize("options", [(), ("--rootless",)], ids=["root", "rootless"])
def test_a_mesh_comes_works_and_leaves_nothing(host: Host, options: tuple[str, ...]) -> None:
    out = host.local("up", "--sample", "none", "--nodes", "1", *options)
    assert f"export KUBECONFIG={host.state}/ambient-mesh/default/kubeconfig" in out
    status = host.status()
    assert status["ready"] is True
    assert status["rootless"] is bool(options)
    assert status["nodes"][0]["cni_chain"] == ["ptp", "portmap", "ambient-cni"]
    assert "node-1   Ready" in host.kubectl("get", "nodes")
    assert "is running already" in host.refused("up")

    assert "is gone" in host.local("down")

    assert host.left() in ({}, {"files": {f"{host.state}/ambient-mesh"}})
    assert "is not running" in host.local("down")
    assert "is not running" in host.refused("status")


POD = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: default}
data: {colour: red}
---
apiVersion: v1
kind: Pod
metadata: {name: probe, namespace: default, labels: {app: probe}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: first
    image: none
    command: [sh, -c, "echo made by init > /var/run/scratch/file"]
    volumeMounts: [{name: work, mountPath: /var/run/scratch}]
  containers:
  - name: main
    image: none
    command: [sh, -c, "cat /var/run/scratch/file; echo $(WHO) on $NODE; exec sleep infinity"]
    env:
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: WHO, value: I am}
    readinessProbe: {exec: {command: [test, -e, /var/run/settings/colour]}}
    volumeMounts:
    - {name: work, mountPath: /var/run/scratch}
    - {name: settings, mountPath: /var/run/settings}
  volumes:
  - {name: work, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
"""
BROKEN = """\
apiVersion: v1
kind: Pod
metadata: {name: broken, namespace: default}
spec:
  containers: [{name: main, image: none, command: [no-such-program]}]
"""


def test_two_meshes_side_by_side_and_what_a_user_does_in_them(host: Host) -> None:
    other = [AMBIENTCTL, "local", "up", "--name", "other", "--sample", "none", "--nodes", "1"]
    with subprocess.Popen(other, env=host.environment, stdout=subprocess.DEVNULL) as starting:
        host.local("up")
    assert starting.returncode == 0

    # Services, DNS and host network from inside and outside of the sample's namespace.
    page = json.loads(
        host.local("exec", "outside", "--", "curl", "-s", "productpage.bookinfo:9080/productpage")
    )
    assert page["details"]["service"] == "details"
    assert page["reviews"]["version"] in ("v1", "v2", "v3")
    absent = host.run(AMBIENTCTL, "local", "exec", "outside", "--", "curl", "-s", "nowhere.test")
    assert absent.returncode == 6  # curl: could not resolve host
    assert host.local("exec", "client", "-n", "bookinfo", "cat", stdin="through") == "through"
    assert "details v1 serves on port 9080" in host.local("logs", "details", "-n", "bookinfo")
    assert "no pod 'nobody'" in host.refused("exec", "nobody", "--", "true")

    # A pod reaches itself through its service; a service without endpoints refuses at once.
    own = ["exec", "details", "-n", "bookinfo", "--", "curl", "-s", "-m", "5"]
    assert '"details"' in host.local(*own, "http://details:9080/details/0")
    host.kubectl("scale", "-n", "bookinfo", "deployment/ratings", "--replicas=0")
    until(lambda: host.run(AMBIENTCTL, "local", *own, "http://ratings:9080/").returncode == 7)
    host.kubectl("scale", "-n", "bookinfo", "deployment/ratings", "--replicas=1")
    until(lambda: [pod["ready"] for pod in pods_of(host, "ratings")] == [1])

    # A pod with an init container, live configuration and probes, by kubectl.
    host.kubectl("apply", "-f", "-", stdin=POD + "---\n" + BROKEN)
    host.kubectl("wait", "pod/probe", "--for=condition=Ready", f"--timeout={DEADLINE_S}s")
    node = host.kubectl("get", "pod", "probe", "-o", "jsonpath={.spec.nodeName}")
    assert host.kubectl("logs", "probe") == f"made by init\nI am on {node}\n"
    host.kubectl("patch", "configmap", "settings", "-p", '{"data": {"colour": "blue"}}')
    until(lambda: host.local("exec", "probe", "--", "cat", "/var/run/settings/colour") == "blue")
    until(lambda: "no-such-program" in host.kubectl("describe", "pod", "broken"))
    host.kubectl("delete", "pod", "probe", "broken")

    # A killed program is started again; a deleted pod gets a successor.
    before = pods_of(host, "ratings")
    host.local(
        "exec", "ratings", "-n", "bookinfo", "--", "kill", str(before[0]["containers"]["ratings"])
    )
    until(lambda: pods_of(host, "ratings")[0]["restarts"] == 1)
    host.kubectl("delete", "pod", "-n", "bookinfo", before[0]["name"])
    until(
        lambda: (
            [p["name"] for p in pods_of(host, "ratings") if p["ready"]]
            not in ([], [before[0]["name"]])
        )
    )

    host.local("down", "--name", "other")
    assert host.status()["ready"] is True
    host.local("down")
    assert host.left() in ({}, {"files": {f"{host.state}/ambient-mesh"}})


def pods_of(host: Host, app: str) -> list[dict[str, Any]]:
    return [pod for pod in host.status()["pods"] if pod["name"].startswith(f"{app}-")]


def test_a_crash_leaves_a_folder_that_the_next_start_replaces(host: Host) -> None:
    host.local("up", "--sample", "none", "--nodes", "1")
    pid = host.status()["pid"]
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    poll = select.poll()  # readable when the process, and with it its namespace, has ended
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(DEADLINE_S * 1000)
    os.close(descriptor)

    assert set(host.left()) == {"files"}
    assert "is not running" in host.refused("status")
    host.local("up", "--sample", "none", "--nodes", "1")
    assert host.status()["pid"] != pid
    host.local("down")
    assert host.left() in ({}, {"files": {f"{host.state}/ambient-mesh"}})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(host: Host, number: int) -> None:
    command = [AMBIENTCTL, "local", "up"]
    with subprocess.Popen(
        command, env=host.environment, stderr=subprocess.PIPE, text=True
    ) as starting:
        assert starting.stderr
        assert starting.stderr.readline().startswith("network:")
        starting.send_signal(number)
        rest = starting.communicate(timeout=DEADLINE_S)[1]
    assert starting.returncode == 130
    assert "the start was interrupted; nothing of it is left" in rest
    assert host.left() in ({}, {"files": {f"{host.state}/ambient-mesh"}})


def test_what_is_wrong_is_named_and_nothing_half_made_stays(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} on 127.0.0.1 cannot be used" in host.refused("up", "--api-port", port)
    assert "unknown sample 'nope'" in host.refused("up", "--sample", "nope")
    assert "cannot be the name of a mesh" in host.refused("up", "--name", "../x")
    assert "--nodes" in host.refused("up", "--nodes", "99")
    assert host.left() in ({}, {"files": {f"{host.state}/ambient-mesh"}})


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (
            "mount -t tmpfs tmpfs /usr/lib/cni",
            "apt-get install --no-install-recommends containernetworking-plugins",
        ),
        (
            "echo 0 > /proc/sys/user/max_user_namespaces",
            "user namespaces are switched off on this machine (user.max_user_namespaces=0)",
        ),
        (
            'mount -t tmpfs -o size=4k tmpfs "$XDG_STATE_HOME"; echo full > "$XDG_STATE_HOME/full"',
            "No space left on device",
        ),
    ],
    ids=["package missing", "namespaces switched off", "disk full"],
)
def test_a_machine_that_lacks_something_is_told_what(
    host: Host, spoil: str, complaint: str
) -> None:
    script = f"{spoil}; exec {AMBIENTCTL} local up --rootless --sample none"
    # A user namespace of its own: there the switch can be turned off for nobody else.
    done = host.run("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert host.left() in ({}, {"files": {f"{host.state}/ambient-mesh"}})
