"""The server's side of ``pods/portforward``, in the three ways in which clients ask for it.

``v4.channel.k8s.io`` over a WebSocket is one TCP connection (``ambient/kube/io/port_forward.py``).
kubectl speaks SPDY, bare or inside a WebSocket, and opens a pair of streams, one for data and one
for errors, for each TCP connection (kubelet's cri/streaming/portforward).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ambient.kube.io.port_forward import DATA, ERROR, PORT_BYTES, READ_BYTES, SUBPROTOCOL
from ambientctl.local.apiserver.io.spdy_connection import SpdyConnection, SpdyStream
from ambientctl.local.apiserver.io.upgrade import (
    SPDY,
    Bare,
    Duplex,
    Headers,
    Tunnelled,
    UpgradeError,
    WebSocket,
    texts,
)

Dial = Callable[[int], Awaitable[trio.abc.Stream]]
"""Opens a connection to a port; raises OSError with the reason."""
PROTOCOL: Final = "portforward.k8s.io"
TUNNEL: Final = f"{SPDY}+{PROTOCOL}"


class PortForward:
    """An upgraded connection; ``dial`` leads to a port, ``port`` is that of the query, or 0."""

    def __init__(self, port: int, dial: Dial) -> None:
        self._port = port
        self._dial = dial

    async def serve(self, client: trio.abc.Stream, headers: Headers, target: str) -> None:
        """Until one side ends; what the client breaks ends it, too."""
        try:
            named = texts(headers)
            if named.get("upgrade", "").lower() == SPDY.lower():
                bare = Bare(client)
                await bare.accept(named, [PROTOCOL])
                await self._streams(bare)
            else:
                socket = WebSocket(client)
                if await socket.accept(headers, target, [TUNNEL, SUBPROTOCOL]) == TUNNEL:
                    await self._streams(Tunnelled(socket))
                else:
                    await self._channels(socket)
        except* UpgradeError:
            pass

    # Pairs of streams.

    async def _streams(self, duplex: Duplex) -> None:
        waiting: dict[str, dict[str, SpdyStream]] = {}
        async with trio.open_nursery() as nursery:

            def opened(stream: SpdyStream) -> None:
                kind = stream.headers.get("streamtype", "")
                request = stream.headers.get("requestid", "")
                pair = waiting.setdefault(request, {})
                pair[kind] = stream
                if {"data", "error"} <= pair.keys():
                    del waiting[request]
                    nursery.start_soon(self._pair, connection, pair["data"], pair["error"])

            connection = SpdyConnection(duplex, opened)
            await connection.run()
            nursery.cancel_scope.cancel()

    async def _pair(self, connection: SpdyConnection, data: SpdyStream, error: SpdyStream) -> None:
        """One TCP connection."""
        port = data.headers.get("port", "")
        try:
            try:
                pod = await self._dial(int(port))
            except (OSError, ValueError, OverflowError) as reason:
                number = getattr(reason, "errno", None)
                told = os.strerror(number) if number else str(reason)
                await error.send(f"connect to port {port}: {told}".encode())
                return
            async with pod, trio.open_nursery() as nursery:
                nursery.start_soon(_copy_in, data, pod)
                await _copy_out(pod, data, error)
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(1, shield=True):
                await data.finish()
                await error.finish()
            connection.forget(data, error)

    # Channels.

    async def _channels(self, socket: WebSocket) -> None:
        head = self._port.to_bytes(PORT_BYTES, "little")
        for channel in (DATA, ERROR):
            await socket.send(bytes([channel]) + head)
        try:
            pod = await self._dial(self._port)
        except OSError as error:
            text = f"connect to port {self._port}: {error.strerror or error}"
            await socket.send(bytes([ERROR]) + text.encode())
            await socket.close()
            return
        async with pod, trio.open_nursery() as nursery:

            async def from_pod() -> None:
                try:
                    while data := await pod.receive_some(READ_BYTES):
                        await socket.send(bytes([DATA]) + bytes(data))
                except trio.BrokenResourceError:
                    await socket.send(bytes([ERROR]) + b"the connection inside the pod was reset")
                await socket.close()
                nursery.cancel_scope.cancel()

            nursery.start_soon(from_pod)
            async for message in socket.messages():
                if message[:1] == bytes([DATA]):
                    await pod.send_all(message[1:])
            nursery.cancel_scope.cancel()


async def _copy_in(data: SpdyStream, pod: trio.abc.Stream) -> None:
    """From the client; its end is the pod's, too."""
    try:
        while piece := await data.receive():
            await pod.send_all(piece)
        if isinstance(pod, trio.SocketStream):
            await pod.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        data.leave()


async def _copy_out(pod: trio.abc.Stream, data: SpdyStream, error: SpdyStream) -> None:
    try:
        while piece := await pod.receive_some(READ_BYTES):
            await data.send(bytes(piece))
    except trio.BrokenResourceError:
        await error.send(b"the connection inside the pod was reset")
