"""Proxies for clients: HTTP's CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928)."""

from __future__ import annotations

import base64
import functools
import ipaddress
from contextlib import asynccontextmanager

import trio


class FakeProxy:
    """Notes in ``asked`` what it was asked for, and connects everybody with ``target``."""

    def __init__(self, target: int, *, refusing: bool = False) -> None:
        self.target = target
        self.refusing = refusing
        self.asked: list[str] = []
        self.users: set[str] = set()
        self.port = 0

    @asynccontextmanager
    async def serving(self, speak):
        """``speak`` is ``FakeProxy.http`` or ``FakeProxy.socks5``."""

        async def serve(stream):
            async with stream:
                if not await speak(self, stream):
                    return
                far = await trio.open_tcp_stream("127.0.0.1", self.target)
                async with far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, far, stream)
                    await self._carry(stream, far)
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            listen = functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
            listeners = await nursery.start(listen)
            self.port = listeners[0].socket.getsockname()[1]
            yield self
            nursery.cancel_scope.cancel()

    async def http(self, stream) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive_some(1)
        line, *fields = head.decode().split("\r\n")
        self.asked.append(line)
        for field in fields:
            name, _, value = field.partition(": ")
            if name.lower() == "proxy-authorization":
                self.users.add(base64.b64decode(value.removeprefix("Basic ")).decode())
        status = "403 Forbidden" if self.refusing else "200 OK"
        await stream.send_all(f"HTTP/1.1 {status}\r\n\r\n".encode())
        return not self.refusing

    async def socks5(self, stream) -> bool:
        _, count = await self._exactly(stream, 2)
        await self._exactly(stream, count)
        await stream.send_all(b"\x05\x02")  # a user and a password, as in RFC 1929
        user = [
            await self._exactly(stream, (await self._exactly(stream, skipped))[-1])
            for skipped in (2, 1)
        ]
        self.users.add(b":".join(user).decode())
        await stream.send_all(b"\x01\x00")
        _, _, _, kind = await self._exactly(stream, 4)
        if kind == 3:
            (size,) = await self._exactly(stream, 1)
            host = (await self._exactly(stream, size)).decode()
        else:
            host = str(ipaddress.ip_address(await self._exactly(stream, 4)))
        port = int.from_bytes(await self._exactly(stream, 2), "big")
        self.asked.append(f"CONNECT {host}:{port}")
        await stream.send_all(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        return True

    @staticmethod
    async def _exactly(stream, size) -> bytes:
        data = b""
        while len(data) < size:
            data += await stream.receive_some(size - len(data))
        return data

    @staticmethod
    async def _carry(source, sink) -> None:
        async for data in source:
            await sink.send_all(data)
