"""Processes in namespaces, as the supervisor sees them: the trio side of ``init``'s socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from array import array
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec
import trio

from ambient.api.errors import MeshError
from ambientctl.local.init import MAX_REQUEST_BYTES


class Mount(NamedTuple):
    """One entry of a container's file system; an empty source is a new tmpfs."""

    source: str
    target: str
    read_only: bool = False


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to start and where; an empty command line makes a process that only waits."""

    argv: Sequence[str] = ()
    env: Mapping[str, str] = {}
    cwd: str = "/"
    join: Sequence[str] = ()
    """Paths of namespaces to enter, such as /proc/17/ns/net."""
    unshare: Sequence[str] = ()
    """Kinds of new namespaces: net, mnt, uts, ipc."""
    mounts: Sequence[Mount] = ()
    """Only together with a new mount namespace."""
    sysctls: Mapping[str, str] = {}
    """Path below /proc/sys to value."""
    hostname: str = ""


class StartError(MeshError):
    """A process could not be started; the text is the kernel's or the loader's reason."""


class Process:
    """One running process; ``wait`` may be called by any number of tasks."""

    def __init__(self, pid: int) -> None:
        self.pid: Final = pid
        self.code: int | None = None
        """Exit status; negative is the signal that ended it; None while it runs."""
        self._ended = trio.Event()

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""
        await self._ended.wait()
        assert self.code is not None
        return self.code

    def end(self, code: int) -> None:
        """Called by the runtime when the process has been reaped."""
        self.code = code
        self._ended.set()

    def namespace(self, kind: str) -> str:
        """The path of one of its namespaces."""
        return f"/proc/{self.pid}/ns/{kind}"


class Finished(NamedTuple):
    """How a short command ended."""

    code: int
    out: bytes
    err: bytes


class Runtime:
    """Starts processes through ``init``; ``serve`` must run for anything to happen."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(connection)
        self._ids = count(1)
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._processes: dict[int, Process] = {}
        self._sending = trio.Lock()
        self._over = False

    async def serve(self) -> None:
        """Read what init tells, until it goes away."""
        try:
            await self._read_answers()
        finally:  # whoever still waits for a process would wait for ever
            self._over = True
            for process in self._processes.values():
                process.end(-signal.SIGKILL)
            for waiting in self._answers.values():
                waiting.send_nowait({"error": "the mesh is ending"})
        raise MeshError("the mesh's first process has gone away")

    async def _read_answers(self) -> None:
        while data := await self._socket.recv(MAX_REQUEST_BYTES):
            message = msgspec.json.decode(data)
            if "exited" in message:
                process = self._processes.pop(message["exited"], None)
                if process is not None:
                    process.end(message["code"])
                continue
            if "pid" in message:  # before the waiter runs: its end may be the next message
                process = self._processes[message["pid"]] = Process(message["pid"])
                message["process"] = process
            answer = self._answers.pop(message["id"], None)
            if answer is not None:
                answer.send_nowait(message)

    async def start(
        self, spec: ProcessSpec, stdin: int = -1, stdout: int = -1, stderr: int = -1
    ) -> Process:
        """Start a process; a descriptor of -1 means /dev/null. Raises StartError."""
        if self._over:
            raise StartError("the mesh is ending")
        number = next(self._ids)
        request = msgspec.json.encode({"id": number, **msgspec.to_builtins(spec)})
        if len(request) > MAX_REQUEST_BYTES:
            raise StartError(
                f"command and environment need {len(request)} bytes",
                hint=f"at most {MAX_REQUEST_BYTES} are possible",
            )
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._answers[number] = send
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            fds = [fd if fd >= 0 else null for fd in (stdin, stdout, stderr)]
            with trio.CancelScope(shield=True):  # a half-known process could never be ended
                await self._send(request, fds)
                answer = await receive.receive()
        finally:
            os.close(null)
        if "error" in answer:
            raise StartError(answer["error"])
        process: Process = answer["process"]
        return process

    async def signal(self, process: Process, number: int) -> None:
        """Send a signal to the process; harmless when it has ended."""
        if process.code is None:
            await self._send(msgspec.json.encode({"signal": number, "pid": process.pid}), [])

    async def kill(self, process: Process) -> None:
        """End the process and its process group now, and wait for the end."""
        await self.signal(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    async def run(self, spec: ProcessSpec, stdin: bytes = b"") -> Finished:
        """Run a short command to its end; cancelling kills it. Raises StartError."""
        in_r, in_w = os.pipe2(os.O_CLOEXEC)
        out_r, out_w = os.pipe2(os.O_CLOEXEC)
        err_r, err_w = os.pipe2(os.O_CLOEXEC)
        try:
            process = await self.start(spec, in_r, out_w, err_w)
        except BaseException:
            for fd in (in_w, out_r, err_r):
                os.close(fd)
            raise
        finally:
            for fd in (in_r, out_w, err_w):
                os.close(fd)
        out, err = bytearray(), bytearray()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_feed, in_w, stdin)
                nursery.start_soon(_collect, out_r, out)
                nursery.start_soon(_collect, err_r, err)
                code = await process.wait()
        finally:
            if process.code is None:
                with trio.CancelScope(shield=True):
                    await self.kill(process)
        return Finished(code, bytes(out), bytes(err))

    async def _send(self, data: bytes, fds: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds).tobytes())]
        async with self._sending:
            await self._socket.sendmsg([data], rights if fds else [])


async def _feed(fd: int, data: bytes) -> None:
    async with trio.lowlevel.FdStream(fd) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)


async def _collect(fd: int, into: bytearray) -> None:
    async with trio.lowlevel.FdStream(fd) as stream:
        async for chunk in stream:
            into += chunk
