"""A cluster without nodes: the embedded API server on a thread, and the command line beside it."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import os
import socket
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from ambient.telemetry.io.http import Request, Response, Routes, listen, serve_http
from ambientctl.__main__ import cli
from ambientctl.console import fail_clearly
from ambientctl.local.apiserver.core.kinds import CRDS
from ambientctl.local.apiserver.core.pod_streams import PodPort
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.server import ApiServer
from ambientctl.local.apiserver.settings import Settings
from ambientctl.local.controllers.run import run_controllers

MANIFESTS = Path(__file__).parents[3] / "manifests"


@functools.cache
def definitions() -> list[Object]:
    """The mesh's, read, checked and accepted once: that takes longer than most tests."""
    server = ApiServer(Settings(endpoints=("172.30.0.1",)))
    for path in sorted((MANIFESTS / "crds").glob("*.yaml")):
        server.apply_manifest(path.read_text())
    return server.cluster.store.objects(CRDS)


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
        self._nursery: trio.Nursery | None = None
        self._programs: dict[tuple[str, int], int] = {}

    def program(self, pod: str, port: int, pages: dict[str, object]) -> Routes:
        """HTTP pages inside a pod (``namespace/name``): text, or what becomes JSON."""

        routes = Routes()
        for path, page in pages.items():
            routes.add(path, _page(page), methods=())

        async def start() -> int:
            assert self._nursery is not None
            listeners = await listen("127.0.0.1", 0)
            await self._nursery.start(serve_http, listeners, routes)
            number: int = listeners[0].socket.getsockname()[1]
            return number

        self._programs[pod, port] = trio.from_thread.run(start, trio_token=self._token)
        return routes

    async def connect(self, asked: PodPort) -> trio.abc.Stream:
        number = self._programs.get((f"{asked.namespace}/{asked.pod}", asked.port))
        if number is None:
            raise ConnectionRefusedError(111, "Connection refused")
        return await trio.open_tcp_stream("127.0.0.1", number)

    def apply(self, *texts: str) -> None:
        assert self._token is not None
        for text in texts:
            trio.from_thread.run_sync(self.server.apply_manifest, text, trio_token=self._token)

    def define(self, found: list[Object]) -> None:
        """Definitions of resources, as a cluster keeps them."""
        store = self.server.cluster.store

        def put() -> None:
            for one in found:
                store.put(CRDS, copy.deepcopy(one))

        trio.from_thread.run_sync(put, trio_token=self._token)

    def __call__(self, *words: str, stdin: str = "") -> Done:
        return run_command([*words], stdin, {"KUBECONFIG": str(self.kubeconfig)})

    def node(self, name: str, address: str = "172.30.0.11") -> None:
        self.apply(
            f"""
apiVersion: v1
kind: Node
metadata: {{name: {name}}}
"""
        )

    def pod(
        self, name: str, ip: str, *, node: str = "node-1", account: str = "", **metadata: object
    ) -> None:
        """A pod that runs and is ready."""
        where, _, short = name.partition("/")
        if account:
            metadata_of = f"metadata: {{name: {account}, namespace: {where}}}"
            self.apply(f"apiVersion: v1\nkind: ServiceAccount\n{metadata_of}")
        obj = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": short, "namespace": where, **metadata},
            "spec": {
                "nodeName": node,
                "serviceAccountName": account or "default",
                "containers": [{"name": "c", "image": "i"}],
            },
        }
        self.apply(json.dumps(obj))
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.status("v1", "Pod", name, status)

    def status(self, version: str, kind: str, name: str, status: object) -> None:
        """Write the status of an object (``namespace/name``, or a name)."""
        where, _, short = name.rpartition("/")

        def write() -> None:
            cluster = self.server.cluster
            found = cluster.catalogue.of(version, kind)
            assert found is not None
            live = cluster.get(found, where, short)
            cluster.store.put((found.group, found.plural), {**live, "status": status})

        trio.from_thread.run_sync(write, trio_token=self._token)

    def objects(self, resource: tuple[str, str]) -> dict[tuple[str, str], object]:
        """What is stored of a resource (group, plural), by namespace and name."""

        def read() -> dict[tuple[str, str], object]:
            found = self.server.cluster.store.objects(resource)
            return {
                (one["metadata"].get("namespace", ""), one["metadata"]["name"]): one
                for one in found
            }

        return trio.from_thread.run_sync(read, trio_token=self._token)

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


def _page(page: object):
    async def handler(request: Request) -> Response:
        if callable(page):
            return page(request)
        return Response(200, page if isinstance(page, str) else json.dumps(page))

    return handler


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
            status = fail_clearly(
                lambda: cli.main(words, prog_name="ambientctl", standalone_mode=False)
            )
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


@pytest.fixture
def still(tmp_path):
    """A cluster in which nothing moves: no controller writes any status."""
    with serving(tmp_path, controllers=False) as command_line:
        yield command_line


@contextlib.contextmanager
def serving(folder: Path, *, crds: bool = True, controllers: bool = True):
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = ApiServer(
        Settings(endpoints=("172.30.0.1",)), pod_ports=lambda asked: command_line.connect(asked)
    )
    command_line = CommandLine(server, f"https://127.0.0.1:{listener.getsockname()[1]}", folder)
    ready, over = threading.Event(), None

    async def serve() -> None:
        nonlocal over
        command_line._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            over = nursery.cancel_scope
            command_line._nursery = nursery
            if controllers:
                await nursery.start(run_controllers, server.cluster, server.ca_pem)
            await nursery.start(server.serve, [listener])
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(30)
        if crds:
            command_line.define(definitions())
        yield command_line
    finally:
        assert over is not None
        trio.from_thread.run_sync(over.cancel, trio_token=command_line._token)
        thread.join(30)
        assert not thread.is_alive()
