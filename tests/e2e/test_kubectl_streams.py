"""``exec``, ``port-forward``, ``cp`` and ``attach`` in a local mesh, by the real kubectl."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.test_local import AMBIENTCTL, Host

SHOP = ("-n", "bookinfo")
TRANSPORTS = {
    "websocket": {},
    "spdy": {
        "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false",
        "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false",
    },
}
"""kubectl up to 1.30 knows SPDY only; later ones try a WebSocket first."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("state")
    made = Host(folder)
    made.local("up", "--nodes", "1")
    made.environment["KUBECONFIG"] = str(folder / "ambient-mesh" / "default" / "kubeconfig")
    try:
        yield made
    finally:
        made.run(AMBIENTCTL, "local", "down")


@pytest.fixture(params=TRANSPORTS)
def kubectl(request: pytest.FixtureRequest, host: Host) -> Kubectl:
    return Kubectl(host.environment | TRANSPORTS[request.param])


class Kubectl:
    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.said = ""
        """What the last ``port-forward`` said once it forwarded."""

    def __call__(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["kubectl", *words], input=stdin, capture_output=True, env=self.environment, timeout=60
        )

    def ok(self, *words: str, stdin: bytes = b"") -> str:
        done = self(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.decode()

    def exec(self, *words: str, options: tuple[str, ...] = (), stdin: bytes = b"") -> str:
        return self.ok("exec", *options, *SHOP, "deploy/client", "--", *words, stdin=stdin)

    @contextmanager
    def forwarding(self, what: str, ports: str) -> Iterator[int]:
        process = subprocess.Popen(
            ["kubectl", "port-forward", *SHOP, what, ports],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            said = process.stdout.readline().decode()
            found = re.search(r"127\.0\.0\.1:(\d+) ->", said)
            assert found, said
            yield int(found[1])
        finally:
            process.kill()
            self.said = process.communicate()[0].decode()


def test_exec_carries_output_errors_and_the_exit_status(kubectl: Kubectl) -> None:
    assert kubectl.exec("echo", "hello  mesh", "a&b") == "hello  mesh a&b\n"
    done = kubectl("exec", *SHOP, "deploy/client", "--", "sh", "-c", "echo no >&2; exit 3")
    assert done.returncode == 3
    assert done.stderr.decode().startswith("no\n")
    lost = kubectl("exec", *SHOP, "deploy/client", "--", "no-such-program")
    assert lost.returncode == 1
    assert b"no-such-program" in lost.stderr
    wrong = kubectl("exec", *SHOP, "deploy/client", "-c", "lost", "--", "true")
    assert b"container lost is not valid for pod client-" in wrong.stderr


def test_exec_reads_standard_input_to_its_end(kubectl: Kubectl) -> None:
    data = os.urandom(300_000)
    done = kubectl("exec", "-i", *SHOP, "deploy/client", "--", "cat", stdin=data)
    assert (done.returncode, done.stdout == data) == (0, True), done.stderr
    assert kubectl.exec("sh", "-c", "wc -c", options=("-i",), stdin=data).strip() == "300000"


def test_exec_on_a_terminal(kubectl: Kubectl) -> None:
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            ["kubectl", "exec", "-it", *SHOP, "deploy/client", "--", "sh", "-c",
             "tty; read line; echo got $line"],
            stdin=slave, stdout=slave, stderr=slave, env=kubectl.environment,
        )  # fmt: skip
        os.close(slave)
        said = b""
        while b"/dev/pts" not in said:
            said += os.read(master, 4096)
        os.write(master, b"words\n")
        while b"got words" not in said:
            said += os.read(master, 4096)
        assert process.wait(60) == 0
    finally:
        os.close(master)


def test_files_are_copied_both_ways(kubectl: Kubectl, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(os.urandom(100_000))
    pod = kubectl.ok(
        "get", "pods", *SHOP, "-l", "app=client", "-o", "jsonpath={.items[0].metadata.name}"
    )
    # A container of the local mesh sees the machine's own files.
    inside = f"bookinfo/{pod}:{tmp_path}/inside"
    kubectl.ok("cp", str(there), inside)
    kubectl.ok("cp", inside, str(back))
    assert back.read_bytes() == there.read_bytes()


def test_ports_are_forwarded_for_many_connections(kubectl: Kubectl) -> None:
    with kubectl.forwarding("svc/details", ":9080") as port:
        for _ in range(5):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/details/0", timeout=30) as answer:
                assert answer.status == 200
                assert b'"id"' in answer.read()


def test_a_port_where_nobody_listens_is_told(kubectl: Kubectl) -> None:
    with kubectl.forwarding("deploy/client", ":1") as port:
        with pytest.raises(OSError, match=r"Remote end closed|reset by peer"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30)
    assert "connect to port 1: Connection refused" in kubectl.said


def test_attach_shows_what_a_container_writes(kubectl: Kubectl) -> None:
    done = kubectl("attach", "-i", *SHOP, "deploy/client")
    assert done.returncode == 1
    assert b"use kubectl exec -i" in done.stderr
