"""The plugin as a process: what it prints, how it exits, how fast it starts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.io import records

ROOT = Path(__file__).parents[3]
HEAVY = ("trio", "grpc", "pyroute2", "httpx", "structlog", "kubernetes", "msgspec", "asyncio")
RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/n"}],
    "ips": [{"address": "10.0.0.2/24", "interface": 0}],
    "dns": {"nameservers": ["10.96.0.10"]},
}


def call(command: str, conf: dict[str, Any] | bytes, **env: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, JSON on stdout, text on stderr."""
    full = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c0ffee",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/usr/lib/cni",
        "CNI_ARGS": "K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;K8S_POD_UID=u-1",
        **env,
    }
    raw = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    done = subprocess.run(
        [sys.executable, "-m", "cni_plugin"], cwd=ROOT, env=full, input=raw, capture_output=True
    )
    return done.returncode, json.loads(done.stdout or b"{}"), done.stderr.decode()


def conf(run_dir: Path, **changes: Any) -> dict[str, Any]:
    plain = {"cniVersion": "1.0.0", "name": "pods", "type": "ambient-cni"}
    return {**plain, "cni_agent_run_dir": str(run_dir), "prevResult": RESULT, **changes}


@contextmanager
def agent(run_dir: Path, answer: bytes) -> Iterator[list[bytes]]:
    """Answers one call with these bytes; what it was sent."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "pluginevent.sock"))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                while b"}" not in b"".join(heard):
                    heard.append(client.recv(65536))
                client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield heard
        thread.join(10)


OK = b'HTTP/1.1 200 \r\nContent-Type: application/json\r\n\r\n{"enrolled":true,"reason":""}'


def test_add_passes_the_previous_result_through(tmp_path: Path) -> None:
    with agent(tmp_path, OK) as heard:
        code, answer, errors = call("ADD", conf(tmp_path))
    assert (code, answer, errors) == (0, RESULT, "")
    (record,) = records.read_all(str(tmp_path))
    assert (record.namespace, record.name, record.ips) == ("shop", "web", ("10.0.0.2",))
    assert b'"name": "web"' in b"".join(heard)
    assert call("DEL", conf(tmp_path)) == (0, {}, "")
    assert list(records.read_all(str(tmp_path))) == []


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (b"HTTP/1.1 503 \r\n\r\nno ztunnel is connected", 11, "no ztunnel is connected"),
        (b"HTTP/1.1 400 \r\n\r\nbad event", 100, "bad event"),
        (b"rubbish", 11, "the answer is not HTTP"),
        (b"", 11, "the answer is not HTTP"),
    ],
)
def test_an_agent_that_says_no(tmp_path: Path, answer: bytes, code: int, text: str) -> None:
    with agent(tmp_path, answer):
        status, error, _ = call("ADD", conf(tmp_path))
    assert status == 1
    assert error["code"] == code
    assert error["cniVersion"] == "1.0.0"
    assert text in error["msg"]
    assert list(records.read_all(str(tmp_path))) == []


def test_an_absent_agent_is_named_with_the_remedy(tmp_path: Path) -> None:
    status, error, _ = call("ADD", conf(tmp_path))
    assert (status, error["code"]) == (1, 11)
    assert f"{tmp_path}/pluginevent.sock" in error["msg"]
    assert "istio-cni-node" in error["details"]


@pytest.mark.parametrize(
    ("changes", "args"),
    [
        ({"exclude_namespaces": ["shop"]}, None),
        ({"system_namespace": "shop"}, None),
        ({"if_agent_absent": "start"}, None),
        ({}, "IgnoreUnknown=1"),
    ],
)
def test_who_starts_without_the_agent(
    tmp_path: Path, changes: dict[str, Any], args: str | None
) -> None:
    env = {} if args is None else {"CNI_ARGS": args}
    status, answer, _ = call("ADD", conf(tmp_path, **changes), **env)
    assert (status, answer) == (0, RESULT)


def test_add_alone_is_refused(tmp_path: Path) -> None:
    alone = conf(tmp_path)
    del alone["prevResult"]
    status, error, _ = call("ADD", alone)
    assert (status, error["code"]) == (1, 7)
    assert "after the plugin that connects the pod" in error["details"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"cniVersion":"9.9.9"}'])
def test_a_broken_configuration_is_a_json_error(raw: bytes) -> None:
    status, error, errors = call("ADD", raw)
    assert status == 1
    assert error["code"] in (1, 6)
    assert error["cniVersion"] == "1.1.0"
    assert "Traceback" not in errors


def test_a_run_dir_that_cannot_be_written_is_named() -> None:
    status, error, _ = call("ADD", conf(Path("/proc/nowhere")))
    assert (status, error["code"]) == (1, 5)
    assert "/proc/nowhere" in error["msg"]


def test_check_knows_what_was_added(tmp_path: Path) -> None:
    status, error, _ = call("CHECK", conf(tmp_path))
    assert (status, error["code"]) == (1, 3)
    with agent(tmp_path, OK):
        call("ADD", conf(tmp_path))
    assert call("CHECK", conf(tmp_path)) == (0, {}, "")


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_removes_the_records_of_containers_that_are_gone(tmp_path: Path, key: str) -> None:
    record = records.Record("u-1", "web", "shop", "gone", "/n", 1, 2, ())
    records.write(str(tmp_path), record)
    records.write(str(tmp_path), record._replace(uid="u-2", container_id="here"))
    valid = [{"containerID": "here", "ifname": "eth0"}]
    assert call("GC", conf(tmp_path, cniVersion="1.1.0"))[0] == 0
    assert len(list(records.read_all(str(tmp_path)))) == 2, "nothing was said to be gone"
    assert call("GC", conf(tmp_path, cniVersion="1.1.0") | {key: valid})[0] == 0
    assert [each.container_id for each in records.read_all(str(tmp_path))] == ["here"]


def test_status_and_version(tmp_path: Path) -> None:
    assert call("STATUS", conf(tmp_path, cniVersion="1.1.0")) == (0, {}, "")
    status, answer, _ = call("VERSION", {"cniVersion": "0.4.0"})
    assert (status, answer["cniVersion"]) == (0, "0.4.0")
    assert "1.1.0" in answer["supportedVersions"]


def test_without_a_command_it_explains_itself() -> None:
    status, answer, errors = call("", b"")
    assert (status, answer) == (0, {})
    assert "CNI plugin" in errors


def test_the_process_stays_small() -> None:
    """Every pod waits for it, so nothing big may creep into its imports."""
    code = "import sys, cni_plugin.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint(HEAVY)
    assert len(done.stdout.split()) < 110
