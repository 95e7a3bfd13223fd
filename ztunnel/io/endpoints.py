"""The tunnel's own HTTP ports (readiness, metrics, admin), shared with a successor in an upgrade.

Two tunnels of a node may be in one network namespace. The younger gets every new request, so what
asks whether it is ready is not answered by the elder.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.net.io.sockets import ListenOptions, listen_in
from ambient.net.io.succession import sharing
from ambient.telemetry.io.http import Handler, serve_http

_LOCALHOST: Final = ("127.0.0.1", "::1")
_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""A namespace without IPv6."""


class Endpoint:
    """One port and what it answers. An empty host means every address."""

    def __init__(self, host: str, port: int, handler: Handler) -> None:
        self._host = host
        self._port = port
        self._handler = handler
        self._listeners: list[socket.socket] = []
        self._scope = trio.CancelScope()

    async def run(self, share: bool, *, task_status: trio.TaskStatus[None]) -> None:
        """Answer until cancelled; started once bound. Raises MeshError that names the port."""
        try:
            self._listeners = self._bind(ListenOptions(reuse_port=share, transparent=False))
        except OSError as error:
            raise MeshError(
                f"cannot listen on port {self._port}: {error.strerror or error}",
                hint="is another ztunnel running in this network namespace? "
                "ADMIN_PORT, STATS_PORT and READINESS_PORT choose other ports",
            ) from None
        listeners = [
            trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in self._listeners
        ]
        with self._scope:
            await serve_http(listeners, self._handler, task_status=task_status)

    def give_way(self) -> None:
        """Stop answering where somebody else does; otherwise go on."""
        try:
            shared = any(sharing(sock) > 1 for sock in self._listeners)
        except OSError:
            shared = False
        if shared:
            self._scope.cancel()

    def _bind(self, options: ListenOptions) -> list[socket.socket]:
        if self._host != "localhost":
            return [listen_in(None, self._port, options._replace(host=self._host)).socket]
        bound: list[socket.socket] = []
        for host in _LOCALHOST:
            try:
                bound.append(listen_in(None, self._port, options._replace(host=host)).socket)
            except OSError as error:
                if not bound or error.errno not in _NO_SUCH_ADDRESS:
                    for sock in bound:
                        sock.close()
                    raise
        return bound
