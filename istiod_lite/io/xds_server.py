"""Delta ADS over gRPC. Each stream has two threads: one reads, one decides and writes.

The index lives in trio; threads see it only as immutable snapshots, and hear of new ones through
their mailboxes.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage

from ambient.api.errors import MeshError
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE, CONFIG_TYPE, WORKLOAD_TYPE
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ambient.xds.core.delta_server import DeltaStream, Request, Response, Source, StreamRefusedError
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.issue import Caller, RefusedError
from istiod_lite.core.snapshot import AddressSource, Delta, MapSource, Snapshot, WorkloadSource
from istiod_lite.io.mailbox import Closed, Mailbox
from istiod_lite.io.metrics import Metrics

PUSH_ORDER: Final = (ADDRESS_TYPE, WORKLOAD_TYPE, AUTHORIZATION_TYPE, CONFIG_TYPE)
"""A policy never arrives before the workload that refers to it."""
KINDS: Final = frozenset({"ztunnel", "waypoint", "sidecar", "router"})
MAX_NODE_ID: Final = 1024

log = get_logger("xds")


class Node:
    """The first message's node: who the client says it is. Raises ValueError."""

    def __init__(self, node: Any) -> None:
        parts = node.id.split("~")
        if len(parts) != 4 or len(node.id) > MAX_NODE_ID or parts[0] not in KINDS:
            raise ValueError(f"node id {node.id[:100]!r} is not <type>~<ip>~<pod>.<ns>~<domain>")
        self.kind, self.ip, self.name, domain = parts
        self.metadata: dict[str, Any] = json_format.MessageToDict(node.metadata)
        self.namespace = str(self.metadata.get("NAMESPACE") or domain.partition(".")[0])
        self.node_name = str(self.metadata.get("NODE_NAME", ""))
        self.cluster_id = str(self.metadata.get("CLUSTER_ID", ""))

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
        self.mailbox = Mailbox()
        self.connected_at = time.time()
        self.state = DeltaStream(f"{uuid.uuid4().hex[:12]}/", tracked=(CONFIG_TYPE,))


class XdsService(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """The gRPC servicer. ``identify`` gives the caller behind a call, None on plaintext ports."""

    def __init__(
        self,
        identify: Callable[[Any], Caller | None],
        *,
        cluster_id: str,
        max_streams: int,
        metrics: Metrics,
    ) -> None:
        self._identify = identify
        self._cluster_id = cluster_id
        self._free = threading.BoundedSemaphore(max_streams)
        self._metrics = metrics
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._streams: dict[str, Stream] = {}
        self._snapshot = Snapshot()

    def publish(self, snapshot: Snapshot, delta: Delta) -> None:
        """Tell every stream; called in trio, never waits for a stream."""
        self._snapshot = snapshot
        with self._lock:
            streams = list(self._streams.values())
        for stream in streams:
            stream.mailbox.put_delta(delta)

    @property
    def streams(self) -> list[Stream]:
        """Those that are open now."""
        with self._lock:
            return list(self._streams.values())

    def close(self) -> None:
        """End every stream; clients reconnect elsewhere or later."""
        for stream in self.streams:
            stream.mailbox.close()

    # Called by gRPC; the names are the protocol's.

    def DeltaAggregatedResources(  # noqa: N802
        self, request_iterator: Iterator[Any], context: Any
    ) -> Iterator[Any]:
        """One stream, from its first request to its end."""
        if not self._free.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams")
        try:
            yield from self._serve(request_iterator, context)
        finally:
            self._free.release()

    def StreamAggregatedResources(  # noqa: N802
        self, request_iterator: Iterator[Any], context: Any
    ) -> Iterator[Any]:
        """The older protocol; no client of an ambient mesh needs it."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "use DeltaAggregatedResources")
        yield from ()

    def _serve(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        first = next(requests, None)
        if first is None:
            return
        stream = self._open(first, context)
        reader = threading.Thread(
            target=_read, args=(first, requests, stream.mailbox), name=f"xds-read-{stream.id}"
        )
        context.add_callback(stream.mailbox.close)
        with self._lock:
            self._streams[stream.id] = stream
        reader.start()
        log.info(Event.XDS_STREAM_OPENED, client=stream.id, kind=stream.node.kind, peer=stream.peer)
        try:
            yield from self._answers(stream)
        except StreamRefusedError as error:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except Closed:
            return
        finally:
            stream.mailbox.close()
            with self._lock:
                del self._streams[stream.id]
            log.info(Event.XDS_STREAM_CLOSED, client=stream.id)

    def _open(self, first: Any, context: Any) -> Stream:
        """Check who calls; aborts the call if that fails."""
        try:
            caller = self._identify(context)
            node = Node(first.node)
        except RefusedError as error:
            log.warning(Event.CALLER_REFUSED, service="xds", peer=context.peer(), reason=str(error))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
        except MeshError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if caller is not None:
            account = str(node.metadata.get("SERVICE_ACCOUNT") or caller.service_account)
            if (node.namespace, account) != (caller.namespace, caller.service_account):
                text = f"{caller.account} may not act for namespace {node.namespace}"
                context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
        return Stream(next(self._numbers), node, context.peer())

    def _answers(self, stream: Stream) -> Iterator[Any]:
        while True:
            item = stream.mailbox.take()
            # Later than the item is fine: its names are then looked up in a newer snapshot.
            snapshot = self._snapshot
            if isinstance(item, Delta):
                for type_url in PUSH_ORDER:
                    names = item.names.get(type_url, frozenset())
                    if type_url == ADDRESS_TYPE and stream.node.kind == "waypoint":
                        names |= item.labelled
                    source = self._source(stream, type_url, snapshot)
                    response = stream.state.changed(type_url, names, source)
                    if response is not None:
                        self._metrics.pushes.labels(type_url).inc()
                        yield _message(response, snapshot)
                continue
            if item.error:
                self._metrics.rejects.labels(item.type_url).inc()
                log.error(Event.XDS_NACK, client=stream.id, type=item.type_url, error=item.error)
            response = stream.state.request(item, self._source(stream, item.type_url, snapshot))
            if response is not None:
                yield _message(response, snapshot)

    def _source(self, stream: Stream, type_url: str, snapshot: Snapshot) -> Source:
        """What this client may see of a type; nothing of types that we do not have."""
        node = stream.node
        waypoint = node.kind == "waypoint"
        match type_url:
            case _ if type_url == ADDRESS_TYPE:
                return AddressSource(snapshot, labels=waypoint, node=node.node_name)
            case _ if type_url == WORKLOAD_TYPE:
                return WorkloadSource(snapshot, labels=waypoint, node=node.node_name)
            case _ if type_url == AUTHORIZATION_TYPE:
                return MapSource(snapshot.authorizations)
            case _ if type_url == CONFIG_TYPE and waypoint:
                gateway = node.gateway(snapshot, self._cluster_id)
                return MapSource(snapshot.configs.get(gateway, {}) if gateway else {})
            case _:
                return MapSource({})


def _read(first: Any, rest: Iterator[Any], mailbox: Mailbox) -> None:
    """The reading thread: until the client or the stream ends."""
    try:
        for message in itertools.chain((first,), rest):
            mailbox.put_request(_request(message))
    except (Closed, grpc.RpcError):
        pass
    except Exception as error:  # noqa: BLE001 - grpcio raises a bare Exception when a call ends
        log.debug(Event.XDS_STREAM_CLOSED, reason=str(error))
    finally:
        mailbox.close()


def _request(message: Any) -> Request:
    error = message.error_detail
    return Request(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=(error.message or f"code {error.code}") if message.HasField("error_detail") else "",
    )


def _message(response: Response, snapshot: Snapshot) -> Any:
    return pb.DeltaDiscoveryResponse(
        system_version_info=str(snapshot.number),
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
        resources=[
            pb.Resource(
                name=one.name,
                version=one.version,
                aliases=one.aliases,
                resource=AnyMessage(type_url=response.type_url, value=one.body),
            )
            for one in response.resources
        ],
    )
