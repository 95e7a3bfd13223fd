"""Accept connections on one listening socket, a task for each."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_S: Final = 0.1
"""Wait for others to end when there is no descriptor for one more (as trio's own server does)."""

Handler = Callable[[socket.socket], Awaitable[None]]

log = get_logger("accept")


async def accept_for_ever(
    listener: socket.socket, handler: Handler, connections: trio.Nursery
) -> None:
    """Start ``handler`` in ``connections`` for each accepted socket, which is non-blocking.

    A handler that fails ends its own connection only.
    """
    while True:
        await trio.lowlevel.wait_readable(listener)
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                continue  # gone before we got to it
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                await trio.sleep(_PAUSE_S)
                break
            sock.setblocking(False)
            connections.start_soon(_guarded, handler, sock)


async def _guarded(handler: Handler, sock: socket.socket) -> None:
    with sock:
        try:
            await handler(sock)
        except Exception as error:  # a fault of ours must not end other connections
            log.exception(Event.CONN_CRASHED, error=repr(error))
