"""The lasting subscription to the control plane: reconnects, and keeps what it knows meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import grpc
import trio

from ambient.api.errors import MeshError
from ambient.api.pb import discovery_pb2 as pb
from ambient.identity.io.grpc_server import GrpcServer
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ambient.xds.core.delta_client import DeltaClient, NodeInfo, Update
from ambient.xds.core.wire import BadResource
from ambient.xds.io.grpc_stream import Requests, StreamEndedError, run_stream
from ambient.xds.io.stats import XdsStats

__all__ = ["NodeInfo", "Update", "XdsSession"]

FIRST_RETRY_S: Final = 0.01
LONGEST_RETRY_S: Final = 15.0
"""ztunnel src/xds/client.rs."""
DEMAND_S: Final = 5.0
"""A connection waits this long for what it asked for; upstream waits for ever."""

log = get_logger("xds")

Apply = Callable[[Update], Iterable[BadResource]]
"""Takes over an update, synchronously; answers what it could not use."""


class XdsSession:
    """Runs ``apply`` for every update, from the first connection to the end of the program.

    ``synced`` is set once every type was answered. ``stats`` may be registered for scraping.
    """

    def __init__(
        self,
        server: GrpcServer,
        node: NodeInfo,
        types: Sequence[str],
        apply: Apply,
        *,
        on_demand: Collection[str] = (),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._server = server
        self._client = DeltaClient(node, types, on_demand)
        self._apply = apply
        self._jitter = jitter
        self._failures = 0
        self._requests: Requests = Requests()
        self._wanted: dict[str, trio.Event] = {}
        self.synced = trio.Event()
        self.connected = False
        self.stats = XdsStats()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay subscribed until cancelled; starts at once, before anything is known."""
        task_status.started()
        while True:
            reason = "Error"
            try:
                self._requests = Requests()
                for request in self._client.connect():
                    self._requests.put(request)
                await run_stream(self._server, self._requests, self._receive)
            except StreamEndedError as err:
                reason = _reason(err, self.connected)
                self._report(err, reason)
            except MeshError as err:
                self._report(err, reason)
            self.connected = False
            self.stats.terminations[reason] += 1
            delay = min(FIRST_RETRY_S * 2.0 ** min(self._failures, 20), LONGEST_RETRY_S)
            self._failures += 1
            # Half to all of it: the proxies of a whole cluster lose the control plane together.
            await trio.sleep(delay * (0.5 + 0.5 * self._jitter()))

    async def demand(self, type_url: str, name: str) -> None:
        """Have ``name`` in the state where the control plane knows it.

        Returns at once for what was answered before; waits ``DEMAND_S`` at most.
        """
        answered = self._wanted.get(name)
        if answered is None:
            request = self._client.demand(type_url, name)
            if request is None:
                return
            answered = self._wanted[name] = trio.Event()
            self._requests.put(request)
        with trio.move_on_after(DEMAND_S):
            await answered.wait()

    async def _receive(
        self, response: pb.DeltaDiscoveryResponse, size: int
    ) -> pb.DeltaDiscoveryRequest:
        if not self.connected:
            self.connected = True
            log.info(Event.XDS_CONNECTED, address=self._server.address)
        self._failures = 0
        self.stats.messages[response.type_url] += 1
        self.stats.message_bytes[response.type_url] += size
        received = self._client.feed(response)
        late = list(self._apply(received.update))
        for bad in (*received.rejected, *late):
            log.error(Event.XDS_REJECTED, type=response.type_url, name=bad.name, error=str(bad))
        request = self._client.answer(received, late)
        for name in received.named.intersection(self._wanted):
            self._wanted.pop(name).set()
        if self._client.synced and not self.synced.is_set():
            log.info(Event.XDS_SYNCED)
            self.synced.set()
        return request

    def _report(self, err: MeshError, reason: str) -> None:
        """The first loss is news; that it lasts is only said at debug level."""
        send = log.warning if self._failures in (0, 8) else log.debug
        send(Event.XDS_LOST, reason=reason, error=str(err), hint=err.hint)


def _reason(err: StreamEndedError, connected: bool) -> str:
    """The label of the termination metric."""
    if err.code is None:
        return "Complete"
    if not connected and err.code is grpc.StatusCode.UNAVAILABLE:
        return "ConnectionError"
    usual = (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
    )
    return "Reconnect" if err.code in usual else "Error"
