"""Delta ADS over gRPC. Each stream has two threads: one reads, one decides and writes.

The index lives in trio; threads see it only as immutable snapshots, and hear of new ones through
their mailboxes.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb
from google.protobuf.any_pb2 import Any as AnyMessage

from ambient.api.errors import MeshError
from ambient.api.type_urls import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    CONFIG_TYPE,
    SECRET_TYPE,
    WORKLOAD_TYPE,
)
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ambient.xds.core.delta_server import Request, Response, Sent, Source, StreamRefusedError
from istiod_lite.core.issue import Caller, RefusedError
from istiod_lite.core.snapshot import AddressSource, Delta, MapSource, Snapshot, WorkloadSource
from istiod_lite.io import xds_debug
from istiod_lite.io.mailbox import Closed, Mailbox, Push
from istiod_lite.io.metrics import SHORT_TYPES, Metrics, short_type
from istiod_lite.io.unreadable import UnreadableError, checked
from istiod_lite.io.xds_clients import Call, Clients, Node, Stream

PUSH_ORDER: Final = (ADDRESS_TYPE, WORKLOAD_TYPE, AUTHORIZATION_TYPE, SECRET_TYPE, CONFIG_TYPE)
"""A policy never arrives before the workload that refers to it, a rule not before its secret."""
MAX_ERROR_CHARS: Final = 1000
"""Of a client's own words, in the log and on the status page."""
HEALTH_TYPE: Final = "type.googleapis.com/istio.v1.HealthInformation"
"""Istio's agent may send it first; it asks for nothing."""

log = get_logger("xds")


class XdsRules(NamedTuple):
    """``identify`` gives the caller behind a call, None on plaintext ports; ``debug`` a status page
    as JSON, None for unknown ones. Both are called on gRPC's threads.
    """

    identify: Callable[[Any], Caller | None]
    debug: Callable[[str], bytes | None]
    cluster_id: str
    system_namespace: str
    replica: str = ""
    """Our pod's name, for status."""


class XdsService(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """The gRPC servicer."""

    def __init__(self, rules: XdsRules, clients: Clients, metrics: Metrics) -> None:
        self._rules = rules
        self._metrics = metrics
        self._snapshot = Snapshot()
        self._stopping = False
        self.clients = clients

    def publish(self, snapshot: Snapshot, delta: Delta, since: float = 0.0) -> None:
        """Tell every stream; called in trio, never waits for a stream. ``since``: monotonic."""
        self._snapshot = snapshot
        for stream in self.clients.streams:
            stream.mailbox.put_delta(delta, since)

    @property
    def snapshot(self) -> Snapshot:
        """What is served now."""
        return self._snapshot

    @property
    def streams(self) -> list[Stream]:
        """Those that are open now."""
        return self.clients.streams

    def finish(self) -> None:
        """Send every stream what waits for it, then end it; clients reconnect elsewhere, with the
        versions of what they hold.
        """
        self._stopping = True
        for stream in self.clients.streams:
            stream.mailbox.finish()

    # Called by gRPC; the names are the protocol's.

    def DeltaAggregatedResources(  # noqa: N802
        self, request_iterator: Iterator[Any], context: Any
    ) -> Iterator[Any]:
        """One stream, from its first request to its end."""
        yield from self._stream(self._serve, request_iterator, context)

    def StreamAggregatedResources(  # noqa: N802
        self, request_iterator: Iterator[Any], context: Any
    ) -> Iterator[Any]:
        """The older protocol: status for istioctl; the mesh's own types speak delta only."""
        yield from self._stream(self._debug, request_iterator, context)

    def _stream(
        self,
        answers: Callable[[Iterator[Any], Call], Iterator[Any]],
        requests: Iterator[Any],
        context: Any,
    ) -> Iterator[Any]:
        call = Call(context)
        if not self.clients.enter(call):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams")
        try:
            yield from answers(checked(requests), call)
        except UnreadableError as error:
            self._end_unreadable(call, error)
        finally:
            self.clients.leave(call)

    def _end_unreadable(self, call: Call, error: UnreadableError) -> None:
        self.clients.limited(call.peer, "unreadable", str(error))
        call.context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _serve(self, requests: Iterator[Any], call: Call) -> Iterator[Any]:
        first = next(requests, None)
        while first is not None and first.type_url == HEALTH_TYPE:
            first = next(requests, None)
        if first is None:
            return
        stream = self._open(first, call)
        context = call.context
        reader = threading.Thread(
            target=_read, args=(first, requests, stream.mailbox), name=f"xds-read-{stream.id}"
        )
        context.add_callback(stream.mailbox.close)
        if self._stopping:
            stream.mailbox.finish()
        reader.start()
        log.info(Event.XDS_STREAM_OPENED, client=stream.id, kind=stream.node.kind, peer=stream.peer)
        try:
            yield from self._answers(stream)
        except StreamRefusedError as error:
            self.clients.limited(f"{stream.id} {stream.peer}", "subscription", str(error))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except Closed:
            return
        except (GeneratorExit, UnreadableError):
            raise
        except Exception:
            self._metrics.internal_errors.inc()
            raise
        finally:
            stream.mailbox.close()
            log.info(Event.XDS_STREAM_CLOSED, client=stream.id)

    def _open(self, first: Any, call: Call) -> Stream:
        """Check who calls; aborts the call if that fails."""
        context = call.context
        caller, node = self._caller(context), self._node(first, context)
        if caller is not None:
            account = str(node.metadata.get("SERVICE_ACCOUNT") or caller.service_account)
            if (node.namespace, account) != (caller.namespace, caller.service_account):
                text = f"{caller.account} may not act for namespace {node.namespace}"
                context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
        stream = self.clients.identify(call, _client_of(caller, call.peer), node)
        if stream is None:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams of this client")
        assert stream is not None
        stream.caller = caller
        return stream

    def _caller(self, context: Any) -> Caller | None:
        try:
            return self._rules.identify(context)
        except RefusedError as error:
            log.warning(Event.CALLER_REFUSED, service="xds", peer=context.peer(), reason=str(error))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
        except MeshError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return None

    def _node(self, first: Any, context: Any) -> Node:
        try:
            return Node(first.node)
        except ValueError as error:
            log.warning(Event.CALLER_REFUSED, service="xds", peer=context.peer(), reason=str(error))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise

    def _answers(self, stream: Stream) -> Iterator[Any]:
        while True:
            item = stream.mailbox.take()
            # Later than the item is fine: its names are then looked up in a newer snapshot.
            snapshot = self._snapshot
            if isinstance(item, Push):
                self._metrics.queue_time.observe(time.monotonic() - item.queued)
                for type_url in PUSH_ORDER:
                    response = self._change(stream, type_url, item.delta, snapshot)
                    if response is not None:
                        self._metrics.pushes.labels(short_type(type_url)).inc()
                        yield from self._sent(stream, response, snapshot)
                        self._metrics.convergence.observe(time.monotonic() - item.since)
                continue
            self._note(stream, item)
            response = stream.state.request(item, self._source(stream, item.type_url, snapshot))
            if response is not None:
                yield from self._sent(stream, response, snapshot)

    def _change(
        self, stream: Stream, type_url: str, delta: Delta, snapshot: Snapshot
    ) -> Response | None:
        names = delta.names.get(type_url, frozenset())
        if type_url == ADDRESS_TYPE and stream.node.kind == "waypoint":
            names |= delta.labelled
        begun = time.monotonic()
        response = stream.state.changed(type_url, names, self._source(stream, type_url, snapshot))
        if response is not None:
            push_time = self._metrics.push_time.labels(short_type(type_url))
            push_time.observe(time.monotonic() - begun)
        return response

    def _sent(self, stream: Stream, response: Response, snapshot: Snapshot) -> Iterator[Any]:
        """Hand it to gRPC, which comes back when it has passed it on."""
        message = _message(response, snapshot)
        known = response.type_url in SHORT_TYPES
        size = self._metrics.config_size.labels(response.type_url if known else "unknown")
        size.observe(message.ByteSize())
        stream.sent_at[response.type_url] = time.time()
        stream.writing_since = begun = time.monotonic()
        yield message
        stream.writing_since = 0.0
        self._metrics.send_time.observe(time.monotonic() - begun)

    def _note(self, stream: Stream, request: Request) -> None:
        """Count refusals and late answers; name a client that refuses, but not for ever."""
        label = short_type(request.type_url)
        known = stream.state.types.get(request.type_url)
        if known is not None and request.nonce and request.nonce != known.sent_nonce:
            self._metrics.expired_nonces.labels(label).inc()
        if not request.error:
            return
        self._metrics.rejects.labels(label).inc()
        stream.nacks += 1
        # Powers of two: a client that refuses for ever is named ever more rarely.
        if stream.nacks & (stream.nacks - 1) == 0:
            log.error(Event.XDS_NACK, client=stream.id, peer=stream.peer, type=label,
                      error=request.error, refusals=stream.nacks)  # fmt: skip

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
                gateway = node.gateway(snapshot, self._rules.cluster_id)
                return MapSource(snapshot.configs.get(gateway, {}) if gateway else {})
            case _ if type_url == SECRET_TYPE and waypoint:
                return MapSource(self._credentials(stream, snapshot))
            case _:
                return MapSource({})

    def _credentials(self, stream: Stream, snapshot: Snapshot) -> Mapping[str, Sent]:
        """Of the waypoint whose instance calls. What a client says of itself is not enough here:
        the pod that its token is bound to has to be one of the Gateway's.
        """
        caller, cluster = stream.caller, self._rules.cluster_id
        gateway = stream.node.gateway(snapshot, cluster)
        if caller is None or gateway is None:
            return {}
        pod = f"{cluster}//Pod/{caller.namespace}/{caller.pod_name}"
        return snapshot.credentials.get(gateway, {}) if snapshot.gateway_of(pod) == gateway else {}

    def _debug(self, requests: Iterator[Any], call: Call) -> Iterator[Any]:
        context = call.context
        call.shown = False
        sent = ""
        for number, request in enumerate(requests):
            if number == 0:
                caller = self._caller(context)
                node = self._node(request, context)
                if not xds_debug.is_operator(caller, call.peer, self._rules.system_namespace):
                    text = f"status is for accounts of {self._rules.system_namespace}"
                    context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
                if self.clients.identify(call, _client_of(caller, call.peer), node) is None:
                    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams")
            # istioctl makes up a nonce for its question; an acknowledgement has ours.
            if request.type_url == HEALTH_TYPE or (sent and request.response_nonce == sent):
                continue
            rules = self._rules
            answer = xds_debug.answer(request, self.clients.streams, rules.debug, rules.replica)
            if answer is None:
                text = f"{request.type_url[:200]} is served by DeltaAggregatedResources only"
                context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
            assert answer is not None
            sent = answer.nonce
            yield answer


def _client_of(caller: Caller | None, peer: str) -> str:
    """Whose streams are counted together."""
    if caller is not None:
        return f"{caller.account}/{caller.pod_name}" if caller.pod_name else caller.account
    # ``ipv4:10.0.0.1:53412``: every connection has another port.
    return peer.rpartition(":")[0]


def _read(first: Any, rest: Iterator[Any], mailbox: Mailbox) -> None:
    """The reading thread: until the client or the stream ends."""
    try:
        for message in itertools.chain((first,), rest):
            mailbox.put_request(_request(message))
    except (Closed, grpc.RpcError):
        pass
    except UnreadableError as error:
        mailbox.fail(error)
    except Exception as error:  # noqa: BLE001 - grpcio raises a bare Exception when a call ends
        log.debug(Event.XDS_STREAM_CLOSED, reason=str(error))
    finally:
        # What was answered while the client closed its side still goes out.
        mailbox.finish()


def _request(message: Any) -> Request:
    error = ""
    if message.HasField("error_detail"):
        detail = message.error_detail
        error = (detail.message or f"code {detail.code}")[:MAX_ERROR_CHARS]
    return Request(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=error,
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
