"""One pod's proxy: its listeners, its connections and its tunnels, all owned by one task."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from functools import partial
from typing import Final

import trio

from ambient.api.ports import (
    DNS_PORT,
    HBONE_PORT,
    OUTBOUND_PORT,
    PLAINTEXT_PORT,
    SOCKS_PORT,
)
from ambient.hbone.io.pool import Pool
from ambient.hbone.io.server import Drain
from ambient.net.core.wire import Add
from ambient.net.io.bpf_flows import announce
from ambient.net.io.netns import Netns
from ambient.net.io.sockets import Listener, ListenOptions, listen_in
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ztunnel.io import inbound, outbound, plaintext, socks
from ztunnel.io.accept import Acceptor, Handler, last_handshakes
from ztunnel.io.dns import DnsProxy, open_dns
from ztunnel.io.mesh_view import UnknownWorkloadError
from ztunnel.io.node import Node, PodParts
from ztunnel.io.pod_identity import ForeignNamespaceError, PodIdentity
from ztunnel.io.pods import PodStartError

_HINTS: Final = {
    errno.EADDRINUSE: "another proxy listens in this pod: a sidecar, or a second tunnel as "
    "another user",
    errno.EPERM: "the tunnel needs the capabilities NET_ADMIN, NET_RAW and SYS_ADMIN",
}

_PORTS: Final = (OUTBOUND_PORT, PLAINTEXT_PORT, HBONE_PORT)

log = get_logger("pod")


class Pod:
    """Serves one pod from ``run`` until ``stop``."""

    def __init__(self, node: Node, info: Add, netns: Netns) -> None:
        self.info: Final = info
        self.netns: Final = netns
        self._node = node
        self._identity = PodIdentity(node.view, info, netns)
        self._stopping = trio.Event()
        self._drain_s = 0.0
        self._plaintext: socket.socket | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Listen, serve, drain. Raises PodStartError where a port cannot be bound."""
        pool = Pool(self._node.relay, self._node.pool_settings)
        parts = PodParts(self.info, self.netns, pool, Drain(), self._identity)
        with self._listeners() as listeners, self._dns(parts) as dns, closing(pool):
            async with trio.open_nursery() as background:
                background.start_soon(self._hold_certificate)
                with trio.CancelScope() as life:
                    async with trio.open_nursery() as connections:
                        if dns is not None:
                            connections.start_soon(dns.run, self._stopping)
                        await self._accept(parts, listeners, connections, task_status)
                        life.deadline = trio.current_time() + self._drain_s
                background.cancel_scope.cancel()

    async def _accept(
        self,
        parts: PodParts,
        listeners: dict[int, Listener],
        connections: trio.Nursery,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Take connections until ``stop``; then close the listeners and say goodbye to peers."""
        acceptors = [
            Acceptor(listener.socket, self._handler(parts, port, listener), connections)
            for port, listener in listeners.items()
        ]
        async with trio.open_nursery() as accepting:
            for acceptor in acceptors:
                accepting.start_soon(acceptor.run)
            task_status.started()
            await self._stopping.wait()
            await last_handshakes(self.netns, listeners)
            accepting.cancel_scope.cancel()
        for acceptor in acceptors:
            acceptor.close()
        parts.drain.begin()
        parts.pool.release()

    def stop(self, drain_s: float) -> None:
        """Accept no more; open connections get ``drain_s`` seconds to end."""
        self._drain_s = drain_s
        self._stopping.set()

    def announce(self) -> None:
        """Name the listener for inbound connections to the eBPF redirection, if there is one."""
        if self._plaintext is not None and not self._stopping.is_set():
            folder = self._node.settings.bpf_dir
            announce(self.netns, PLAINTEXT_PORT, self._plaintext, folder)

    @contextmanager
    def _listeners(self) -> Iterator[dict[int, Listener]]:
        with ExitStack() as opened:
            listeners = {}
            options = self._ports()
            for port in options:
                try:
                    listener = listen_in(self.netns, port, options[port])
                except OSError as error:
                    raise _cannot_listen(port, error) from None
                opened.callback(listener.socket.close)
                listeners[port] = listener
            self._check_transparency(listeners[HBONE_PORT])
            if PLAINTEXT_PORT in listeners:
                self._plaintext = listeners[PLAINTEXT_PORT].socket
            yield listeners
            self._plaintext = None

    def _ports(self) -> dict[int, ListenOptions]:
        """What is listened on, and how."""
        options = dict.fromkeys(_PORTS, self._node.listen_options)
        if self._node.settings.unstable_enable_socks5:
            own = self._node.listen_options._replace(transparent=False, host="127.0.0.1")
            options[SOCKS_PORT] = own
        return options

    def _dns(self, parts: PodParts) -> AbstractContextManager[DnsProxy | None]:
        if not self._node.settings.dns_proxy:
            return nullcontext()
        try:
            return closing(open_dns(self._node, parts))
        except OSError as error:
            raise _cannot_listen(DNS_PORT, error) from None

    def _keeps_source(self) -> bool:
        """Whether the application is to see the client's address."""
        return self._node.settings.enable_orig_src is not False

    def _check_transparency(self, listener: Listener) -> None:
        wanted = self._node.settings.enable_orig_src
        if listener.transparent or not self._keeps_source():
            return
        if wanted:
            raise PodStartError(
                "the kernel refuses IP_TRANSPARENT and ENABLE_ORIG_SRC is true "
                "(give the tunnel NET_ADMIN, or unset ENABLE_ORIG_SRC)"
            )
        log.warning(Event.SPOOF_OFF, pod=f"{self.info.namespace}/{self.info.name}")

    def _handler(self, parts: PodParts, port: int, listener: Listener) -> Handler:
        if port in (OUTBOUND_PORT, SOCKS_PORT):
            carry = outbound.handle if port == OUTBOUND_PORT else socks.handle
            return self._counted("source", partial(carry, self._node, parts))
        serve = plaintext.handle if port == PLAINTEXT_PORT else inbound.handle
        handler = partial(serve, self._node, parts, keep_source=listener.transparent)
        return self._counted("destination", handler)

    def _counted(self, reporter: str, handler: Handler) -> Handler:
        """``handler``, with its socket in the gauge of open sockets."""
        metrics = self._node.metrics

        async def counted(sock: socket.socket) -> None:
            metrics.socket(reporter, 1)
            try:
                await handler(sock)
            finally:
                metrics.socket(reporter, -1)

        return counted

    async def _hold_certificate(self) -> None:
        """Have the certificate before the first connection asks for it; keep it until the end."""
        while True:
            try:
                workload = await self._identity.workload()
                break
            except (UnknownWorkloadError, ForeignNamespaceError):
                continue  # the control plane is late; a connection would be told, we wait on
        self._node.identities.take(workload.identity)
        try:
            await trio.sleep_forever()
        finally:
            self._node.identities.give_back(workload.identity)


def _cannot_listen(port: int, error: OSError) -> PodStartError:
    hint = _HINTS.get(error.errno or 0, "does the pod's network namespace exist?")
    return PodStartError(f"cannot listen on port {port}: {error.strerror} ({hint})")
