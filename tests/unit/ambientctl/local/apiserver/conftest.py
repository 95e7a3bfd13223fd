"""A real server on a loopback port, with its controllers, and clients for it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.lowlevel

from ambientctl.local.apiserver.core.api import PodLog
from ambientctl.local.apiserver.server import ApiServer
from ambientctl.local.apiserver.settings import Settings
from ambientctl.local.controllers.run import run_controllers

DEADLINE_S = 30


class Running:
    """The server under test; ``url`` is where it listens."""

    def __init__(self, server: ApiServer, url: str, folder: Path) -> None:
        self.server = server
        self.url = url
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(server.kubeconfig(url)))
        self._folder = folder

    def client(self) -> httpx.AsyncClient:
        context = ssl.create_default_context(cadata=self.server.ca_pem)
        headers = {"authorization": f"Bearer {self.server.settings.admin_token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, verify=context)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self._folder), **self._config()}

    def _config(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig)}

    async def kubectl(self, *words: str, stdin: str = "", fails: bool = False) -> str:
        """Run kubectl; its output, or with ``fails`` what it says on stderr."""
        with trio.fail_after(DEADLINE_S):
            done = await trio.run_process(
                ["kubectl", *words],
                stdin=stdin.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self.environment(),
            )
        assert (done.returncode != 0) is fails, (words, done.stdout, done.stderr)
        return (done.stderr if fails else done.stdout).decode()

    def find(self, resource: tuple[str, str], name: str, namespace: str = "") -> Any:
        return self.server.cluster.store.get(resource, namespace, name)


async def some_logs(wish: PodLog):
    """Two lines, and with --follow a third and the end."""
    yield b"one\ntwo\n"
    if wish.follow:
        await trio.lowlevel.checkpoint()
        yield b"three\n"


@pytest.fixture
async def running(tmp_path, nursery):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        server = ApiServer(Settings(endpoints=("172.30.0.1",)), some_logs)
        await nursery.start(run_controllers, server.cluster, server.ca_pem)
        await nursery.start(server.serve, [listener])
        yield Running(server, f"https://127.0.0.1:{port}", tmp_path)
        nursery.cancel_scope.cancel()


@pytest.fixture
def kubectl(running):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed (Debian: kubernetes-client)")
    return running.kubectl


@pytest.fixture
async def kubectl_minor(kubectl) -> int:
    """Which Kubernetes 1.x the installed kubectl is of: Debian 12 has 1.20, others 1.32."""
    said = json.loads(await kubectl("version", "--client", "-o", "json"))
    return int(said["clientVersion"]["minor"].rstrip("+"))


@pytest.fixture
async def spawn(running):
    """Start a kubectl that goes on; it ends with the test."""
    started: list[trio.Process] = []

    async def start(*words: str) -> trio.Process:
        process = await trio.lowlevel.open_process(
            ["kubectl", *words], stdout=subprocess.PIPE, env=running.environment()
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.aclose() if hasattr(process, "aclose") else None
            if process.stdout is not None:
                await process.stdout.aclose()
