"""HTTP between the supervisor and a worker, over connections that are passed as descriptors.

There is no port and no path that anybody else could connect to: for each request the supervisor
makes a pair of sockets and sends one of them to the worker.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlencode

import h11
import trio

from ambient.net.io.agent_socket import AgentSocket, PacketError
from ambient.telemetry.io.http import READ_BYTES, Request, Response, Routes, serve_http

_CONNECTION: Final = b"http"
"""What accompanies the descriptor; it says nothing else."""


class WorkerLostError(Exception):
    """The worker is not there, or did not answer."""


class PassedEndpoint:
    """All that a worker answers, to its supervisor only.

    ``orphaned`` is called when the supervisor has gone.
    """

    def __init__(
        self,
        http_fd: int,
        routes: Iterable[Routes],
        orphaned: Callable[[], None] = lambda: None,
    ) -> None:
        self._http_fd = http_fd
        self._orphaned = orphaned
        self._routes = Routes()
        for part in routes:
            self._routes.include(part)

    async def run(self, _share: bool, *, task_status: trio.TaskStatus[None]) -> None:
        """Answer until cancelled."""
        listener = _PassedConnections(AgentSocket.from_fd(self._http_fd), self._orphaned)
        await serve_http([listener], self._routes, task_status=task_status)

    def give_way(self) -> None:
        """Nobody else answers for this worker."""


class _PassedConnections(trio.abc.Listener[trio.SocketStream]):
    """The worker's end: accepts what the supervisor passes."""

    def __init__(self, channel: AgentSocket, orphaned: Callable[[], None]) -> None:
        self._channel = channel
        self._orphaned = orphaned

    async def accept(self) -> trio.SocketStream:
        """The next connection; none comes any more when the supervisor has gone."""
        while True:
            data, fd = await self._channel.recv()
            if not data:
                self._orphaned()
                await trio.sleep_forever()
            if fd is not None:
                return trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))

    async def aclose(self) -> None:
        """Accept no more."""
        self._channel.close()
        await trio.lowlevel.checkpoint()


async def ask(channel: AgentSocket, request: Request, timeout_s: float) -> Response:
    """Have the worker behind ``channel`` answer. Raises WorkerLostError."""
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    try:
        with trio.fail_after(timeout_s):
            try:
                await channel.send(_CONNECTION, theirs.fileno())
            finally:
                theirs.close()
            async with stream:
                return await _exchange(stream, request)
    except trio.TooSlowError:
        raise WorkerLostError(f"no answer within {timeout_s:g} s") from None
    except (OSError, PacketError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise WorkerLostError(str(error)) from None
    except h11.RemoteProtocolError as error:
        raise WorkerLostError(f"its answer is none: {error}") from None
    finally:
        await trio.aclose_forcefully(stream)


async def _exchange(stream: trio.SocketStream, request: Request) -> Response:
    client = h11.Connection(h11.CLIENT)
    target = request.path + (f"?{urlencode(request.query)}" if request.query else "")
    headers = [
        ("Host", "worker"),
        ("Connection", "close"),
        ("Content-Length", str(len(request.body))),
    ]
    head = h11.Request(method=request.method, target=target, headers=headers)
    wire = client.send(head) or b""
    wire += (client.send(h11.Data(data=request.body)) or b"") if request.body else b""
    wire += client.send(h11.EndOfMessage()) or b""
    await stream.send_all(wire)
    status, content_type, body = 502, "text/plain; charset=utf-8", bytearray()
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(await stream.receive_some(READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
            types = dict(event.headers).get(b"content-type")
            content_type = types.decode("latin-1") if types else content_type
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            return Response(status, bytes(body), content_type)
