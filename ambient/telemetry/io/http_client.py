"""How our programs' HTTP clients connect."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import httpcore
import trio

if TYPE_CHECKING:
    import httpx


def transport(tls: ssl.SSLContext | bool, **options: Any) -> httpx.AsyncHTTPTransport:
    """For ``httpx.AsyncClient``; ``tls`` says how servers are verified.

    The environment has no say: a proxy of it must not see what the mesh sends. ``options`` are
    those of ``httpx.AsyncHTTPTransport``.
    """
    import httpx  # with its own command line and all it needs: a tenth of a second

    made = httpx.AsyncHTTPTransport(verify=tls, trust_env=False, **options)
    assert isinstance(made._pool, httpcore.AsyncConnectionPool)
    made._pool._network_backend = Backend()
    return made


class Backend(httpcore.TrioBackend):
    """Leaves no socket behind: httpcore's own forgets it when a TLS handshake is cancelled."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.aclose()
            raise
