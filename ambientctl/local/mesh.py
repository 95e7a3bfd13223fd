"""A running local mesh, for commands, the demo and tests."""

from __future__ import annotations

import contextlib
import os
import socket
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import trio

from ambient.api.errors import MeshError, UnavailableError, UsageError
from ambientctl.local.capture import RecordReader, Segment
from ambientctl.local.control_wire import MAX_MESSAGE_BYTES, SOCKET_NAME, owner_name
from ambientctl.local.log_files import log_path, plain
from ambientctl.local.mesh_status import MeshStatus, PodStatus
from ambientctl.local.state_folder import StateFolder

SIGKILL: Final = 9


class ExecResult(NamedTuple):
    """How a command in a container ended."""

    code: int
    out: str
    err: str


class RunningCommand:
    """A command in a container, with its streams."""

    def __init__(
        self,
        control: trio.socket.SocketType,
        pid: int,
        streams: tuple[trio.lowlevel.FdStream, trio.lowlevel.FdStream, trio.lowlevel.FdStream],
    ) -> None:
        self._control = control
        self.pid: Final = pid
        self.stdin, self.stdout, self.stderr = streams
        self._code: int | None = None
        self._waiting = trio.Lock()

    async def send(self, data: bytes) -> None:
        """Write to its standard input."""
        await self.stdin.send_all(data)

    async def receive(self) -> bytes:
        """Read from its standard output; ``b""`` at the end."""
        return bytes(await self.stdout.receive_some(65536))

    async def errors(self) -> str:
        """All of its standard error, at its end."""
        return await _text(self.stderr)

    async def signal(self, number: int) -> None:
        """Send it a signal."""
        await self._control.send(msgspec.json.encode({"signal": number}))

    async def wait(self) -> int:
        """Its exit status. Raises UnavailableError when the mesh ends first."""
        async with self._waiting:
            if self._code is None:
                self._code = int((await _answer(self._control))["code"])
        return self._code


class Capture:
    """What has crossed a node's link since the capture began."""

    def __init__(self, command: RunningCommand) -> None:
        self._command = command
        self._reader = RecordReader()
        self._news = trio.Condition()
        self.segments: Final[list[Segment]] = []
        """In the order of their arrival, both directions."""

    def payload(self) -> bytes:
        """All payload so far, for a search."""
        return b"\n".join(segment.payload for segment in self.segments)

    async def settle(self) -> None:
        """Wait until everything that has crossed by now is in ``segments``."""
        wanted = self._reader.markers + 1
        await self._command.send(b".")
        async with self._news:
            while self._reader.markers < wanted:
                await self._news.wait()

    async def pump(self) -> None:
        """Read records until the capture ends."""
        while data := await self._command.receive():
            self.segments.extend(self._reader.feed(data))
            async with self._news:
                self._news.notify_all()


class LocalMesh:
    """The way into one running mesh."""

    def __init__(self, folder: StateFolder) -> None:
        self._state = folder
        self.name: Final = folder.name
        self.folder: Final = folder.path
        self.kubeconfig: Final = folder.kubeconfig

    @classmethod
    def find(cls, name: str = "default") -> LocalMesh | None:
        """The mesh of that name; None where it does not run."""
        folder = StateFolder(name)
        return cls(folder) if folder.is_running() else None

    @classmethod
    def open(cls, name: str = "default") -> LocalMesh:
        """The mesh of that name. Raises UnavailableError where it does not run."""
        mesh = cls.find(name)
        if mesh is None:
            option = "" if name == "default" else f" --name {name}"
            raise UnavailableError(
                f"local mesh {name!r} is not running", hint=f"ambientctl local up{option}"
            )
        return mesh

    async def status(self) -> MeshStatus:
        """Nodes, pods and where things are."""
        with await self._connect() as control:
            await control.send(msgspec.json.encode({"op": "status"}))
            answer = await _answer(control)
        return msgspec.convert(answer, MeshStatus)

    async def pod(self, name: str, namespace: str) -> PodStatus:
        """A pod by its name, or by its owner's where that has one pod. Raises UsageError."""
        pods = [pod for pod in (await self.status()).pods if pod.namespace == namespace]
        found = [pod for pod in pods if pod.name == name] or [
            pod for pod in pods if owner_name(pod.name) == name
        ]
        if len(found) == 1:
            return found[0]
        names = ", ".join(pod.name for pod in found or pods) or "none"
        if found:
            raise UsageError(f"{namespace}/{name} is more than one pod", hint=f"choose: {names}")
        raise UsageError(f"no pod {name!r} in namespace {namespace!r}", hint=f"pods: {names}")

    async def process_ids(self, pod: str, namespace: str) -> dict[str, int]:
        """Container to process id, as numbered inside the mesh."""
        return (await self.pod(pod, namespace)).containers

    async def node_of(self, pod: str, namespace: str) -> str:
        """The node that a pod runs on."""
        return (await self.pod(pod, namespace)).node

    def logs(self, pod: str, namespace: str, container: str = "") -> str:
        """A container's output so far, without time stamps. ``pod`` is the full name."""
        return plain(self.log_file(pod, namespace, container).read_bytes())

    def log_file(self, pod: str, namespace: str, container: str = "") -> Path:
        """Where a container's output goes; without a name, the pod's only or first container.

        Raises UsageError where there is none.
        """
        if container:
            path = log_path(self._state.logs, namespace, pod, container)
            found = [path] if path.exists() else []
        else:
            found = sorted(self._state.logs.glob(f"{namespace}_{pod}_*.log"))
            found = found or sorted(self._state.logs.glob(f"{namespace}_{pod}-*_*.log"))
        if not found:
            raise UsageError(
                f"no log of pod {pod!r} in namespace {namespace!r}",
                hint="ambientctl local status lists the pods",
            )
        return found[0]

    async def exec(
        self,
        pod: str,
        namespace: str,
        command: Sequence[str],
        *,
        container: str = "",
        stdin: bytes = b"",
    ) -> ExecResult:
        """Run a command in a container to its end. Raises MeshError where it cannot start."""
        async with self.exec_stream(pod, namespace, command, container=container) as running:
            texts: dict[str, str] = {}

            async def read(name: str, stream: trio.lowlevel.FdStream) -> None:
                texts[name] = await _text(stream)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, "out", running.stdout)
                nursery.start_soon(read, "err", running.stderr)
                with contextlib.suppress(trio.BrokenResourceError):
                    await running.send(stdin)
                await running.stdin.aclose()
                code = await running.wait()
        return ExecResult(code, texts["out"], texts["err"])

    @asynccontextmanager
    async def exec_stream(
        self, pod: str, namespace: str, command: Sequence[str], *, container: str = ""
    ) -> AsyncIterator[RunningCommand]:
        """A running command; leaving the block ends it."""
        request = {
            "op": "exec",
            "pod": pod,
            "namespace": namespace,
            "container": container,
            "argv": list(command),
        }
        async with self._run(request) as running:
            yield running

    @asynccontextmanager
    async def capture(self, node: str) -> AsyncIterator[Capture]:
        """Record what crosses a node's link on the fabric while the block is open."""
        async with self._run({"op": "capture", "node": node}) as running:
            capture = Capture(running)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(capture.pump)
                async with capture._news:
                    while not capture._reader.markers:  # the helper is listening
                        await capture._news.wait()
                yield capture
                nursery.cancel_scope.cancel()

    async def run_with(self, request: dict[str, Any], fds: Sequence[int]) -> int:
        """Run a command on the caller's own descriptors; its exit status."""
        with await self._connect() as control:
            await _send(control, request, fds)
            await _answer(control)
            return int((await _answer(control))["code"])

    @asynccontextmanager
    async def _run(self, request: dict[str, Any]) -> AsyncIterator[RunningCommand]:
        in_r, in_w = os.pipe2(os.O_CLOEXEC)
        out_r, out_w = os.pipe2(os.O_CLOEXEC)
        err_r, err_w = os.pipe2(os.O_CLOEXEC)
        streams = tuple(trio.lowlevel.FdStream(fd) for fd in (in_w, out_r, err_r))
        try:
            with await self._connect() as control:
                try:
                    await _send(control, request, (in_r, out_w, err_w))
                finally:
                    for fd in (in_r, out_w, err_w):
                        os.close(fd)
                pid = int((await _answer(control))["pid"])
                yield RunningCommand(control, pid, streams)  # type: ignore[arg-type]
        finally:
            for stream in streams:
                await trio.aclose_forcefully(stream)

    async def _connect(self) -> trio.socket.SocketType:
        try:
            return trio.socket.from_stdlib_socket(self._state.connect_control(SOCKET_NAME))
        except PermissionError as error:
            raise MeshError(
                f"mesh {self.name} was started by another user", hint="use that account"
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"local mesh {self.name!r} does not answer: {error.strerror}",
                hint=f"ambientctl local down --name {self.name}; its log: {self._state.logs}",
            ) from error


async def _send(
    control: trio.socket.SocketType, request: dict[str, Any], fds: Sequence[int]
) -> None:
    data = msgspec.json.encode(request)
    if len(data) > MAX_MESSAGE_BYTES:
        raise UsageError("the command line is too long")
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds).tobytes())
    await control.sendmsg([data], [rights])


async def _answer(control: trio.socket.SocketType) -> dict[str, Any]:
    """One answer. Raises MeshError for a refusal, UnavailableError when the mesh has ended."""
    try:
        data = await control.recv(1 << 20)
    except OSError:
        data = b""
    if not data:
        raise UnavailableError("the local mesh has ended", hint="ambientctl local status")
    answer = msgspec.json.decode(data, type=dict[str, Any])
    if "error" in answer:
        raise MeshError(answer["error"], hint=answer.get("hint", ""))
    return answer


async def _text(stream: trio.lowlevel.FdStream) -> str:
    parts = [bytes(chunk) async for chunk in stream]
    return b"".join(parts).decode(errors="replace")
