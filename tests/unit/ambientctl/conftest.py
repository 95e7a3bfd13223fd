"""A cluster without nodes: the embedded API server on a thread, and the command line beside it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from ambientctl.__main__ import cli
from ambientctl.console import fail_clearly
from ambientctl.local.apiserver.server import ApiServer
from ambientctl.local.apiserver.settings import Settings
from ambientctl.local.controllers.run import run_controllers

CRDS = Path(__file__).parents[3] / "manifests" / "crds"


class Done(NamedTuple):
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str


class CommandLine:
    """``ambientctl`` against a cluster; ``apply`` and ``status`` change what is there."""

    def __init__(self, server: ApiServer, url: str, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(server.kubeconfig(url)))
        self._token: trio.lowlevel.TrioToken | None = None

    def apply(self, *texts: str) -> None:
        assert self._token is not None
        for text in texts:
            trio.from_thread.run_sync(self.server.apply_manifest, text, trio_token=self._token)

    def __call__(self, *words: str, stdin: str = "") -> Done:
        return run_command([*words], stdin, {"KUBECONFIG": str(self.kubeconfig)})

    def ok(self, *words: str, stdin: str = "") -> str:
        done = self(*words, stdin=stdin)
        assert done.status == 0, done
        return done.out

    def json(self, *words: str):
        return json.loads(self.ok(*words, "-o", "json"))

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


def run_command(words: list[str], stdin: str, environment: dict[str, str]) -> Done:
    """In this process, as the installed program would run it."""
    out, err = io.StringIO(), io.StringIO()
    before = dict(os.environ)
    os.environ.update(environment)
    status = 0
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr("sys.stdin", io.StringIO(stdin))
            status = fail_clearly(lambda: cli.main(words, prog_name="ambientctl"))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert "Traceback" not in err.getvalue()
    return Done(status, out.getvalue(), err.getvalue())


@pytest.fixture
def ambientctl(tmp_path):
    """A cluster of its own for each test."""
    with serving(tmp_path) as command_line:
        yield command_line


@contextlib.contextmanager
def serving(folder: Path, *, crds: bool = True):
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = ApiServer(Settings(endpoints=("172.30.0.1",)))
    command_line = CommandLine(server, f"https://127.0.0.1:{listener.getsockname()[1]}", folder)
    ready, over = threading.Event(), None

    async def serve() -> None:
        nonlocal over
        command_line._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            over = nursery.cancel_scope
            await nursery.start(run_controllers, server.cluster, server.ca_pem)
            await nursery.start(server.serve, [listener])
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(30)
        if crds:
            for path in sorted(CRDS.glob("*.yaml")):
                command_line.apply(path.read_text())
        yield command_line
    finally:
        assert over is not None
        trio.from_thread.run_sync(over.cancel, trio_token=command_line._token)
        thread.join(30)
        assert not thread.is_alive()
