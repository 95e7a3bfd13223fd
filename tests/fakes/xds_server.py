"""A control plane at the protocol edge: incremental ADS from a dict, and a CA, over TLS.

    with FakeControlPlane(tmp_path) as control:
        control.xds.put(workload, service, policy)
        settings = control.settings()     # keyword arguments of GrpcServer

Every stream gets the present state, then every change. What clients sent is in ``xds.requests``.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb

from ambient.api.pb import citadel_pb2_grpc
from ambient.xds.core.wire import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    CONFIG_TYPE,
    SECRET_TYPE,
    Resource,
    decode,
    encode,
    resource_name,
)
from tests.fakes.ca_server import FakeCa

SERVER_NAME = "istiod.istio-system.svc"
NODE_NAME = "node-1"
"""Whose pods a client that asks by name gets unasked."""


class FakeXds(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Resources by type and name; changes go to every open stream at once."""

    def __init__(self, *, labels: bool = False) -> None:
        self._labels = labels
        self._lock = threading.Lock()
        self._resources: dict[str, dict[str, pb.Resource]] = {
            ADDRESS_TYPE: {},
            AUTHORIZATION_TYPE: {},
            CONFIG_TYPE: {},
            SECRET_TYPE: {},
        }
        self._streams: set[queue.SimpleQueue] = set()
        self._named: dict[queue.SimpleQueue, set[str]] = {}
        self._nonce = 0
        self.requests: list[pb.DeltaDiscoveryRequest] = []
        self.metadata: list[dict[str, str]] = []

    def put(self, *values: Resource) -> None:
        """Add or replace, one push a type."""
        items = []
        for value in values:
            url, raw = encode(value, labels=self._labels)
            version = hashlib.sha256(raw).hexdigest()[:16]
            item = pb.Resource(name=resource_name(value), version=version, aliases=_aliases(value))
            item.resource.type_url, item.resource.value = url, raw
            items.append((url, item))
        self._change(items, [])

    def put_raw(self, type_url: str, name: str, raw: bytes, version: str = "") -> None:
        """Anything at all, also what no control plane would send."""
        item = pb.Resource(name=name, version=version)
        item.resource.type_url, item.resource.value = type_url, raw
        self._change([(type_url, item)], [])

    def remove(self, type_url: str, *names: str) -> None:
        self._change([], [(type_url, name) for name in names])

    @property
    def nacks(self) -> list[str]:
        """The reasons of every NACK."""
        return [r.error_detail.message for r in self.requests if r.HasField("error_detail")]

    @property
    def streams(self) -> int:
        """Streams that are open now."""
        return len(self._streams)

    def end_streams(self) -> None:
        """Close every stream cleanly; clients come back."""
        with self._lock:
            for stream in self._streams:
                stream.put(None)

    def _change(self, items, removed) -> None:
        with self._lock:
            responses = []
            for url in {u for u, _ in items} | {u for u, _ in removed}:
                added = [item for u, item in items if u == url]
                names = [name for u, name in removed if u == url]
                for item in added:
                    self._resources[url][item.name] = item
                for name in names:
                    self._resources[url].pop(name, None)
                responses.append(self._response(url, added, names))
            for stream in self._streams:
                for response in responses:
                    stream.put(self._seen_by(stream, response))

    def _response(self, url, items, removed) -> pb.DeltaDiscoveryResponse:
        self._nonce += 1
        return pb.DeltaDiscoveryResponse(
            type_url=url, resources=items, removed_resources=removed, nonce=str(self._nonce)
        )

    def _seen_by(self, stream, response) -> pb.DeltaDiscoveryResponse:
        """What a client that asks by name gets of it: what it named, and its own node's pods."""
        wanted = self._named.get(stream)
        if wanted is None or response.type_url != ADDRESS_TYPE:
            return response
        seen = pb.DeltaDiscoveryResponse(type_url=response.type_url, nonce=response.nonce)
        for item in response.resources:
            inner = decode(ADDRESS_TYPE, item.resource.value)
            keys = {item.name, *item.aliases}
            if keys & wanted or getattr(inner, "node", "") == NODE_NAME:
                seen.resources.append(item)
        seen.removed_resources.extend(response.removed_resources)
        return seen

    def _demand(self, stream, request) -> pb.DeltaDiscoveryResponse:
        self._named[stream] |= set(request.resource_names_subscribe)
        self._named[stream] -= set(request.resource_names_unsubscribe)
        present = self._resources[request.type_url].values()
        there = {key for item in present for key in (item.name, *item.aliases)}
        missing = [name for name in request.resource_names_subscribe if name not in there]
        return self._seen_by(stream, self._response(request.type_url, present, missing))

    def _first(self, request) -> pb.DeltaDiscoveryResponse:
        held = request.initial_resource_versions
        present = self._resources.get(request.type_url, {})
        changed = [
            item
            for name, item in present.items()
            if not item.version or held.get(name) != item.version
        ]
        gone = [name for name in held if name not in present]
        return self._response(request.type_url, changed, gone)

    def DeltaAggregatedResources(self, request_iterator, context):  # noqa: N802
        self.metadata.append(dict(context.invocation_metadata()))
        outgoing: queue.SimpleQueue = queue.SimpleQueue()
        subscribed: set[str] = set()

        def read() -> None:
            try:
                for request in request_iterator:
                    with self._lock:
                        self.requests.append(request)
                        if request.type_url not in subscribed:
                            subscribed.add(request.type_url)
                            if "*" in request.resource_names_unsubscribe:
                                self._named[outgoing] = {*request.resource_names_subscribe} - {"*"}
                            outgoing.put(self._seen_by(outgoing, self._first(request)))
                            self._streams.add(outgoing)
                        elif request.resource_names_subscribe:
                            outgoing.put(self._demand(outgoing, request))
            except Exception:  # noqa: BLE001 - grpc raises a bare Exception when the call ends
                return
            finally:
                outgoing.put(None)

        context.add_callback(lambda: outgoing.put(None))
        reader = threading.Thread(target=read)
        reader.start()
        try:
            while (response := outgoing.get()) is not None:
                if response.type_url in subscribed:
                    yield response
        finally:
            with self._lock:
                self._streams.discard(outgoing)
                self._named.pop(outgoing, None)


def _aliases(value) -> list[str]:
    """``network/ip``; workloads spell their addresses bare, services with the network."""
    addresses = getattr(value, "addresses", ())
    network = getattr(value, "network", "")
    return [str(one) if "/" in str(one) else f"{network}/{one}" for one in addresses]


class FakeControlPlane:
    """Both services on one TLS port of localhost, with files as a pod would have them mounted."""

    def __init__(
        self, folder: Path, *, ca: FakeCa | None = None, labels: bool = False, port: int = 0
    ) -> None:
        self.ca = ca or FakeCa()
        self.xds = FakeXds(labels=labels)
        self.port = port
        self.root_ca_file = folder / "root-cert.pem"
        self.token_file = folder / "istio-token"
        self.root_ca_file.write_bytes(self.ca.authority.root_pem)
        self.token_file.write_text(self.ca.token)
        self._pair = self.ca.authority.server_pair(SERVER_NAME, "localhost")
        self._server: grpc.Server | None = None

    def __enter__(self) -> FakeControlPlane:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after ``stop`` on the same port again."""
        # One thread a stream, some for the CA.
        server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self.xds, server)
        citadel_pb2_grpc.add_IstioCertificateServiceServicer_to_server(self.ca, server)
        credentials = grpc.ssl_server_credentials([self._pair])
        self.port = server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def settings(self) -> dict[str, str]:
        """Keyword arguments of GrpcServer."""
        return {
            "address": f"127.0.0.1:{self.port}",
            "root_ca_file": str(self.root_ca_file),
            "token_file": str(self.token_file),
            "cluster_id": "Kubernetes",
            "alt_hostname": SERVER_NAME,
        }
