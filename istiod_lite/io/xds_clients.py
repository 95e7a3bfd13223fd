"""Who is connected: how many streams one client may have, and which of them make trouble.

A stream costs two threads and what its client has subscribed to, whatever the client does: what it
sends is read only as fast as it is answered, changes that wait for it are merged into one, and
whoever does not say who it is, or does not read, is let go. Each such client is named in the log.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import Counter
from typing import Any, Final

from google.protobuf import json_format

from ambient.api.type_urls import CONFIG_TYPE, SECRET_TYPE
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ambient.xds.core.delta_server import DeltaStream
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.issue import Caller
from istiod_lite.core.snapshot import Snapshot
from istiod_lite.io.mailbox import Mailbox
from istiod_lite.io.metrics import Metrics

KINDS: Final = frozenset({"ztunnel", "waypoint", "sidecar", "router"})
MAX_NODE_ID: Final = 1024
FIRST_MESSAGE_S: Final = 10.0
"""From the stream's start to the message that says whose it is."""
WRITE_TIMEOUT_S: Final = 60.0
"""A client that takes nothing for so long has stopped reading."""
UNACKED_S: Final = 60.0
"""From then on a client is called slow; node tunnels answer within milliseconds."""
REPORT_EVERY_S: Final = 60.0
"""A client that keeps knocking is named once in this time."""

log = get_logger("xds")


class Node:
    """The first message's node: who the client says it is. Raises ValueError."""

    def __init__(self, node: Any) -> None:
        parts = node.id.split("~")
        if len(parts) != 4 or len(node.id) > MAX_NODE_ID or parts[0] not in KINDS:
            raise ValueError(f"node id {node.id[:100]!r} is not <type>~<ip>~<pod>.<ns>~<domain>")
        self.id = node.id
        self.kind, self.ip, self.name, domain = parts
        self.metadata: dict[str, Any] = json_format.MessageToDict(node.metadata)
        self.namespace = str(self.metadata.get("NAMESPACE") or domain.partition(".")[0])
        self.node_name = str(self.metadata.get("NODE_NAME", ""))
        self.cluster_id = str(self.metadata.get("CLUSTER_ID", ""))
        self.version = str(self.metadata.get("ISTIO_VERSION", ""))

    def gateway(self, snapshot: Snapshot, cluster_id: str) -> ObjectKey | None:
        """The Gateway that a waypoint works for: as it says, or by its pod's label."""
        named = self.metadata.get("GATEWAY_NAME")
        if named:
            return ObjectKey(self.namespace, str(named))
        pod = self.name.rpartition(".")[0]
        return snapshot.gateway_of(f"{cluster_id}//Pod/{self.namespace}/{pod}")


class Stream:
    """One connection as ``/debug/syncz`` shows it."""

    def __init__(self, number: int, node: Node, peer: str) -> None:
        self.id = f"{node.name}-{number}"
        self.node = node
        self.peer = peer
        self.caller: Caller | None = None
        """By its token; None in plain text."""
        self.mailbox = Mailbox()
        self.connected_at = time.time()
        self.state = DeltaStream(f"{uuid.uuid4().hex[:12]}/", tracked=(CONFIG_TYPE, SECRET_TYPE))
        self.sent_at: dict[str, float] = {}
        """When each type was last sent, Unix time."""
        self.writing_since = 0.0
        """When gRPC was handed what it has not yet passed on; 0 for nothing. Monotonic."""
        self.nacks = 0
        self.called_slow = False

    def unacked(self) -> list[str]:
        """Types whose last response has waited long for an answer."""
        late = time.time() - UNACKED_S
        return [
            url
            for url, state in dict(self.state.types).items()
            if state.status == "STALE" and self.sent_at.get(url, late + 1) < late
        ]


class Call:
    """A stream from its very beginning, before anything is known of it."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.peer = str(context.peer())
        self.since = time.monotonic()
        self.client = ""
        """Whose streams are counted together: a pod, an account, or an address."""
        self.stream: Stream | None = None
        self.shown = True
        """Whether it counts as a proxy; whoever asks for status does not."""


class Clients:
    """All open streams; used from every stream's threads and from trio."""

    def __init__(self, metrics: Metrics, *, most: int, most_per_client: int) -> None:
        self._metrics = metrics
        self._most = most
        self._most_per_client = most_per_client
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._per_client: Counter[str] = Counter()
        self._reported: dict[tuple[str, str], float] = {}
        metrics.clients.labels("ambient-mesh").set_function(lambda: len(self.streams))

    @property
    def streams(self) -> list[Stream]:
        """Those whose client has said who it is."""
        with self._lock:
            calls = list(self._calls.values())
        return [one.stream for one in calls if one.stream is not None and one.shown]

    def enter(self, call: Call) -> bool:
        """Count a stream; False where there are too many."""
        with self._lock:
            full = len(self._calls) >= self._most
            if not full:
                self._calls[id(call)] = call
        if full:
            self.limited(call.peer, "streams", f"there are {self._most} streams already")
        return not full

    def identify(self, call: Call, client: str, node: Node) -> Stream | None:
        """Count it for its client; None where that one has too many."""
        with self._lock:
            full = self._per_client[client] >= self._most_per_client
            if not full:
                call.client = client
                self._per_client[client] += 1
                call.stream = Stream(next(self._numbers), node, call.peer)
        if full:
            text = f"it has {self._most_per_client} streams already (MAX_STREAMS_PER_CLIENT)"
            self.limited(f"{client} {call.peer}", "streams_per_client", text)
        return call.stream

    def leave(self, call: Call) -> None:
        """The stream has ended."""
        with self._lock:
            if self._calls.pop(id(call), None) is not None and call.client:
                self._per_client[call.client] -= 1
                if not self._per_client[call.client]:
                    del self._per_client[call.client]

    def limited(self, client: str, limit: str, text: str) -> None:
        """Count a refusal, and name the client now and then."""
        self._metrics.limited.labels(limit).inc()
        now = time.monotonic()
        with self._lock:
            if now < self._reported.get((client, limit), 0.0):
                return
            self._reported = {key: until for key, until in self._reported.items() if until > now}
            self._reported[client, limit] = now + REPORT_EVERY_S
        log.warning(Event.XDS_CLIENT_LIMITED, client=client, limit=limit, reason=text)

    def look(self) -> None:
        """Let go of those who hold a stream and do nothing with it; called now and then."""
        now = time.monotonic()
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            stream = call.stream
            if stream is None:
                if now - call.since > FIRST_MESSAGE_S:
                    self.limited(call.peer, "silent", "it has not said who it is")
                    call.context.cancel()
            elif stream.writing_since and now - stream.writing_since > WRITE_TIMEOUT_S:
                self._metrics.write_timeouts.inc()
                self.limited(stream.id, "not_reading", f"it read nothing for {WRITE_TIMEOUT_S} s")
                call.context.cancel()
            else:
                self._judge(stream)

    def _judge(self, stream: Stream) -> None:
        late = stream.unacked()
        if late and not stream.called_slow:
            log.warning(
                Event.XDS_CLIENT_SLOW,
                client=stream.id,
                peer=stream.peer,
                types=late,
                reason=f"it has not answered for {UNACKED_S:.0f} s",
            )
        stream.called_slow = bool(late)
