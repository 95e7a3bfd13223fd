"""Accept connections on listening sockets, a task for each connection."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import trio

from ambient.net.io.netns import Netns
from ambient.net.io.scarcity import is_scarcity
from ambient.net.io.succession import handshakes
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

_PAUSE_S: Final = 0.1
"""Wait for others to end when there is no descriptor for one more (as trio's own server does)."""
_LAST_HANDSHAKES_S: Final = 1.5
"""How long a listener that is to close waits for handshakes under way. A lost packet of one is
sent again after a second; who takes longer has probably left."""
_LOOK_S: Final = 0.01

Handler = Callable[[socket.socket], Awaitable[None]]

log = get_logger("accept")


class Acceptor:
    """One listening socket, and what is done with its connections.

    ``handler`` runs in ``connections`` for each accepted socket, which is non-blocking. A handler
    that fails ends its own connection only.
    """

    def __init__(
        self, listener: socket.socket, handler: Handler, connections: trio.Nursery
    ) -> None:
        self._listener = listener
        self._handler = handler
        self._connections = connections

    async def run(self) -> None:
        """Accept until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._listener)
            if not self._accept_waiting():
                await trio.sleep(_PAUSE_S)

    def close(self) -> None:
        """Accept what has arrived, then listen no more; ``run`` has ended."""
        self._accept_waiting()
        self._listener.close()

    def _accept_waiting(self) -> bool:
        """Empty the queue; False where that needs more descriptors than there are."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return True
            except ConnectionAbortedError:
                continue  # gone before we got to it
            except OSError as error:
                if not is_scarcity(error):
                    raise
                return False
            sock.setblocking(False)
            self._connections.start_soon(_guarded, self._handler, sock)


async def last_handshakes(netns: Netns, ports: Collection[int]) -> None:
    """Wait until a listener can be closed without resetting a client that is about to connect.

    Acceptors go on running meanwhile. A successor on the same ports gets what begins in this time;
    where there is none, these do, so the wait is bounded.
    """
    watched = frozenset(ports)
    with trio.move_on_after(_LAST_HANDSHAKES_S):
        while handshakes(netns, watched):  # noqa: ASYNC110 - the kernel tells nobody when one ends
            await trio.sleep(_LOOK_S)


async def _guarded(handler: Handler, sock: socket.socket) -> None:
    with sock:
        try:
            await handler(sock)
        except Exception as error:  # a fault of ours must not end other connections
            log.exception(Event.CONN_CRASHED, error=repr(error))
