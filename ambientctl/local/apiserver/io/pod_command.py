"""The server's side of ``pods/exec``: a command's streams over a WebSocket's channels or SPDY.

Protocols ``v4.channel.k8s.io`` and ``v5.channel.k8s.io`` (kubernetes pkg/util/remotecommand): the
command's end is a Status on the stream for errors; v5 lets a client close its standard input.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol

import msgspec
import trio

from ambient.api.errors import MeshError
from ambientctl.local.apiserver.core.pod_streams import PodCommand
from ambientctl.local.apiserver.io.spdy_connection import SpdyConnection, SpdyStream
from ambientctl.local.apiserver.io.upgrade import (
    SPDY,
    Bare,
    Headers,
    UpgradeError,
    WebSocket,
    texts,
)

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
"""Channels of a WebSocket; the last one names a channel that is closed (v5)."""
SPDY_PROTOCOLS: Final = ("v4.channel.k8s.io",)
PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
READ_BYTES: Final = 32 * 1024
INPUT_PIECES: Final = 16
"""That wait until the command reads them."""
STREAMS_S: Final = 30.0
"""For the client to open its streams (kubelet's)."""
END_OF_INPUT: Final = b"\x04"
"""Ctrl-D: how a terminal says it."""


class Launched(Protocol):
    """A process in a container."""

    async def wait(self) -> int:
        """Its exit status; negative is the signal that ended it."""

    async def kill(self) -> None:
        """End it now."""


Launch = Callable[[PodCommand, Sequence[int]], Awaitable[Launched]]
"""Starts the command on three descriptors, which stay the caller's. Raises MeshError."""


Write = Callable[[int, bytes], Awaitable[None]]
"""To the client: STDOUT, STDERR or ERROR, and the bytes."""
Output = Callable[[], AsyncGenerator[bytes, None]]
"""What the container itself writes from now on."""


class PodExec:
    """An upgraded connection for one command, or without one for the container's own output."""

    def __init__(self, wish: PodCommand, launch: Launch, output: Output) -> None:
        self._wish = wish
        self._launch = launch
        self._output = output
        self._input, self._typed = trio.open_memory_channel[bytes](INPUT_PIECES)
        self._size: bytes = b""
        self._resized: Callable[[], None] = lambda: None

    async def serve(self, client: trio.abc.Stream, headers: Headers, target: str) -> None:
        """Until the command ends or the client leaves."""
        try:
            named = texts(headers)
            if named.get("upgrade", "").lower() == SPDY.lower():
                bare = Bare(client)
                await bare.accept(named, SPDY_PROTOCOLS)
                await self._over_spdy(bare)
            else:
                socket = WebSocket(client)
                await socket.accept(headers, target, PROTOCOLS)
                await self._over_channels(socket)
        except* (UpgradeError, trio.BrokenResourceError):
            pass

    async def _over_channels(self, socket: WebSocket) -> None:
        async def write(channel: int, data: bytes) -> None:
            await socket.send(bytes([channel]) + data)

        async with trio.open_nursery() as nursery:

            async def read() -> None:
                async for message in socket.messages():
                    match message[:1]:
                        case b"\x00":
                            await self._type(message[1:])
                        case b"\x04":
                            self._resize(message[1:])
                        case b"\xff" if message[1:] == bytes([STDIN]):
                            self._input.close()
                        case _:
                            pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            # Tells the client that the streams are open (kubelet's websocket.go).
            await write(STDOUT if self._wish.stdout else ERROR, b"")
            await self._perform(write)
            await socket.close()
            nursery.cancel_scope.cancel()

    async def _over_spdy(self, bare: Bare) -> None:
        wish = self._wish
        wanted = {"error"} | {name for name in ("stdin", "stdout", "stderr") if getattr(wish, name)}
        wanted |= {"resize"} if wish.tty else set()
        streams: dict[str, SpdyStream] = {}
        complete = trio.Event()

        def opened(stream: SpdyStream) -> None:
            streams[stream.headers.get("streamtype", "")] = stream
            if wanted <= streams.keys():
                complete.set()

        async def write(channel: int, data: bytes) -> None:
            name = {STDOUT: "stdout", STDERR: "stderr", ERROR: "error"}[channel]
            await streams[name].send(data)

        connection = SpdyConnection(bare, opened)
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await connection.run()
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            with trio.move_on_after(STREAMS_S) as scope:
                await complete.wait()
            if scope.cancelled_caught:
                raise UpgradeError("the client opens no streams")
            if wish.stdin:
                nursery.start_soon(self._type_all, streams["stdin"])
            if wish.tty:
                nursery.start_soon(self._resize_all, streams["resize"])
            await self._perform(write)
            for name in ("stdout", "stderr", "error"):
                if name in streams:
                    await streams[name].finish()
            nursery.cancel_scope.cancel()

    async def _type_all(self, stream: SpdyStream) -> None:
        while data := await stream.receive():
            await self._type(data)
        self._input.close()

    async def _resize_all(self, stream: SpdyStream) -> None:
        while data := await stream.receive():
            self._resize(data)

    async def _type(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._input.send(data)

    def _resize(self, data: bytes) -> None:
        try:
            size = msgspec.json.decode(data, type=dict[str, int])
            wide, high = size["Width"], size["Height"]
            self._size = struct.pack("HHHH", high, wide, 0, 0)
        except (msgspec.MsgspecError, KeyError, struct.error):
            return
        self._resized()

    async def _perform(self, write: Write) -> None:
        """Run the command, and tell how it ended."""
        run = self._on_terminal if self._wish.tty else self._on_pipes
        try:
            if self._wish.command:
                status = exit_status(await run(write))
            else:
                async with aclosing(self._output()) as pieces:
                    async for piece in pieces:
                        await write(STDOUT, piece)
                status = exit_status(0)
        except MeshError as error:
            status = _failure("InternalError", str(error))
        await write(ERROR, msgspec.json.encode(status))

    async def _on_pipes(self, write: Write) -> int:
        wish = self._wish
        in_r, in_w = os.pipe2(os.O_CLOEXEC)
        out_r, out_w = os.pipe2(os.O_CLOEXEC)
        err_r, err_w = os.pipe2(os.O_CLOEXEC)
        ours = [trio.lowlevel.FdStream(fd) for fd in (in_w, out_r, err_r)]
        try:
            try:
                process = await self._launch(wish, (in_r, out_w, err_w))
            finally:
                for fd in (in_r, out_w, err_w):
                    os.close(fd)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._feed, ours[0], b"")
                    async with trio.open_nursery() as output:
                        output.start_soon(_copy, ours[1], write, STDOUT, wish.stdout)
                        output.start_soon(_copy, ours[2], write, STDERR, wish.stderr)
                        code = await process.wait()
                        output.cancel_scope.deadline = trio.current_time() + 1  # a stray child
                    nursery.cancel_scope.cancel()
                return code
            finally:
                with trio.CancelScope(shield=True):
                    await process.kill()
        finally:
            for stream in ours:
                await trio.aclose_forcefully(stream)

    async def _on_terminal(self, write: Write) -> int:
        master, slave = os.openpty()

        def resized() -> None:
            if self._size:
                fcntl.ioctl(master, termios.TIOCSWINSZ, self._size)

        self._resized = resized
        resized()
        terminal = trio.lowlevel.FdStream(master)
        try:
            # The terminal is the controlling one of a session of its own.
            own = ("setsid", "--ctty", "--wait", *self._wish.command)
            try:
                process = await self._launch(self._wish._replace(command=own), (slave,) * 3)
            finally:
                os.close(slave)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._feed, terminal, END_OF_INPUT)
                    async with trio.open_nursery() as output:
                        output.start_soon(_copy, terminal, write, STDOUT, True)
                        code = await process.wait()
                        output.cancel_scope.deadline = trio.current_time() + 1
                    nursery.cancel_scope.cancel()
                return code
            finally:
                with trio.CancelScope(shield=True):
                    await process.kill()
        finally:
            self._resized = lambda: None
            await trio.aclose_forcefully(terminal)

    async def _feed(self, stream: trio.lowlevel.FdStream, end: bytes) -> None:
        """Standard input, until the client closes it; ``end`` is then written."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self._wish.stdin:
                async for data in self._typed:
                    await stream.send_all(data)
            if end:
                if self._wish.stdin:
                    await stream.send_all(end)
            else:
                await stream.aclose()


async def _copy(
    stream: trio.lowlevel.FdStream,
    write: Write,
    channel: int,
    wanted: bool,
) -> None:
    """Read to the end; what is not wanted is read all the same, or the command would wait."""
    with suppress(trio.BrokenResourceError):  # a terminal whose other end is gone
        while data := await stream.receive_some(READ_BYTES):
            if wanted:
                await write(channel, bytes(data))


def exit_status(code: int) -> dict[str, Any]:
    """What kubectl makes its own exit status of."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    number = code if code > 0 else 128 - code
    failure = _failure(
        "NonZeroExitCode", f"command terminated with non-zero exit code: exit status {number}"
    )
    causes = [{"reason": "ExitCode", "message": str(number)}]
    return {**failure, "details": {"causes": causes}}


def _failure(reason: str, message: str) -> dict[str, Any]:
    return {"metadata": {}, "status": "Failure", "reason": reason, "message": message}
