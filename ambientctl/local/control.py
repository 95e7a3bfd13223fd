"""The control socket: how ``ambientctl local`` and the helpers speak to a running mesh.

A SEQPACKET socket in the state folder, open to its owner only; every message is one JSON datagram.
A conversation is one request and its answers:

    {"op": "status"}                                    -> MeshStatus
    {"op": "exec", "pod", "namespace", "container", "argv"} + stdin, stdout, stderr
    {"op": "capture", "node"} + the same                -> {"pid"}, then {"code"} at the end
                                                        or {"error", "hint"}

While a command runs the client may send ``{"signal": n}``; when the client goes away, the command
is ended.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import trio

from ambient.api.errors import MeshError, UsageError
from ambientctl.local.control_wire import MAX_MESSAGE_BYTES, owner_name
from ambientctl.local.kubelet.kubelet import Kubelet
from ambientctl.local.kubelet.pod import PodWorker
from ambientctl.local.layout import CONTAINER_PATH
from ambientctl.local.mesh_status import MeshStatus
from ambientctl.local.runtime import ProcessSpec, Runtime

_STDIO: Final = 3


class Control:
    """Answers the requests of one mesh's clients."""

    def __init__(
        self, runtime: Runtime, kubelets: Sequence[Kubelet], status: Callable[[], MeshStatus]
    ) -> None:
        self._runtime = runtime
        self._kubelets = kubelets
        self._status = status

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients for ever."""
        accepting = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            while True:
                client, _ = await accepting.accept()
                nursery.start_soon(self._converse, client)

    async def _converse(self, client: trio.socket.SocketType) -> None:
        fds: list[int] = []
        with client:
            try:
                request = await _receive(client, fds)
                if request.get("op") == "status":
                    await _send(client, msgspec.to_builtins(self._status()))
                else:
                    await self._execute(client, self._spec(request), fds)
            except MeshError as error:
                with contextlib.suppress(OSError):
                    await _send(client, {"error": str(error), "hint": error.hint})
            except (OSError, msgspec.MsgspecError):
                pass  # the client went away, or is none of ours
            finally:
                _close(fds)

    def _spec(self, request: dict[str, Any]) -> ProcessSpec:
        match request:
            case {"op": "exec", "pod": str(pod), "namespace": str(namespace), "argv": list(argv)}:
                return self.command(namespace, pod, request.get("container") or "", argv)
            case {"op": "exec", "node": str(node), "argv": list(argv)}:
                return ProcessSpec(
                    argv=argv, env={"PATH": CONTAINER_PATH}, join=self._node(node).node.enter()
                )
            case {"op": "capture", "node": str(node)}:
                link = self._node(node).node.layout.link
                argv = [sys.executable, "-m", "ambientctl.local.capture", link]
                return ProcessSpec(argv=argv, env={"PATH": CONTAINER_PATH, **_python_env()})
            case _:
                raise UsageError(f"unknown request {request.get('op')!r}")

    def command(self, namespace: str, pod: str, container: str, argv: Sequence[str]) -> ProcessSpec:
        """A command in a container. Raises MeshError where that does not run."""
        return _container_spec(self._find(namespace, pod), container, list(argv))

    def _node(self, name: str) -> Kubelet:
        for kubelet in self._kubelets:
            if kubelet.node.layout.name == name:
                return kubelet
        known = ", ".join(kubelet.node.layout.name for kubelet in self._kubelets)
        raise UsageError(f"the mesh has no node {name!r}", hint=f"nodes: {known}")

    def _find(self, namespace: str, name: str) -> PodWorker:
        workers = [w for kubelet in self._kubelets for w in kubelet.workers.values()]
        here = [worker for worker in workers if worker.key[0] == namespace]
        exact = [worker for worker in here if worker.key[1] == name]
        like = exact or [worker for worker in here if owner_name(worker.key[1]) == name]
        if len(like) == 1:
            return like[0]
        names = ", ".join(sorted(worker.key[1] for worker in like or here)) or "none"
        if like:
            raise UsageError(f"{namespace}/{name} is more than one pod", hint=f"choose: {names}")
        raise UsageError(
            f"no pod {name!r} runs in namespace {namespace!r}", hint=f"pods there: {names}"
        )

    async def _execute(
        self, client: trio.socket.SocketType, spec: ProcessSpec, fds: list[int]
    ) -> None:
        if len(fds) != _STDIO:
            raise UsageError("three descriptors must come with a command")
        process = await self._runtime.start(spec, *fds)
        _close(fds)  # or the client would never see the end of the output
        try:
            await _send(client, {"pid": process.pid})
            async with trio.open_nursery() as nursery:

                async def follow_client() -> None:
                    with contextlib.suppress(OSError, msgspec.MsgspecError):
                        while message := await _receive(client, []):
                            await self._runtime.signal(process, int(message["signal"]))
                    await self._runtime.signal(process, signal.SIGKILL)

                nursery.start_soon(follow_client)
                code = await process.wait()
                nursery.cancel_scope.cancel()
            await _send(client, {"code": code if code >= 0 else 128 - code})
        finally:
            with trio.CancelScope(shield=True):
                await self._runtime.kill(process)


def _container_spec(worker: PodWorker, name: str, argv: list[str]) -> ProcessSpec:
    if not worker.containers:
        raise MeshError(f"pod {worker.key[1]} has not started yet")
    first = str(worker.pod["spec"]["containers"][0]["name"])
    container = worker.containers.get(name or first)
    if container is None:
        known = ", ".join(worker.containers)
        raise UsageError(f"pod {worker.key[1]} has no container {name!r}", hint=f"it has: {known}")
    return container.execution(argv)


def _python_env() -> dict[str, str]:
    return {"PYTHONDONTWRITEBYTECODE": "1"}


async def _receive(client: trio.socket.SocketType, fds: list[int]) -> dict[str, Any]:
    """One message; its descriptors are appended to ``fds``. Empty when the client is gone."""
    room = socket.CMSG_SPACE(_STDIO * 4)
    data, control, _, _ = await client.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, raw in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received = array.array("i")
            received.frombytes(raw[: len(raw) - len(raw) % received.itemsize])
            fds += received
    return msgspec.json.decode(data, type=dict[str, Any]) if data else {}


async def _send(client: trio.socket.SocketType, message: object) -> None:
    await client.send(msgspec.json.encode(message))


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
