"""The client's side of incremental xDS, without I/O: subscribe, accept or reject, remember.

What was accepted is remembered by version for the life of the process, so that a reconnect fetches
only what changed. What was rejected is not: the server sends it again.

A type on demand is not subscribed to as a whole; ``demand`` asks for single names, and the server
adds what belongs to them (the workloads behind a service) and to our node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ambient.api.pb import discovery_pb2 as pb
from ambient.xds.core.wire import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    WORKLOAD_TYPE,
    BadResource,
    Resource,
    decode,
    refusing,
    resource_name,
)

INVALID_ARGUMENT = 3
"""google.rpc.Code of a NACK."""
WILDCARD = "*"
MAX_ABSENT = 10_000
"""Demanded names of nothing that stay subscribed, so that we hear when they become something: every
address outside the mesh that a pod ever dialled."""
MAX_REASON_BYTES = 4096
"""Of a NACK's message; gRPC would carry more, nobody would read it."""


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who subscribes; ``kind`` is ``ztunnel`` or ``waypoint``."""

    kind: str
    ip: str
    name: str
    namespace: str
    node_name: str = ""
    metadata: dict[str, Any] = {}
    """Besides NAME, NAMESPACE, INSTANCE_IPS and NODE_NAME."""

    @property
    def id(self) -> str:
        """``kind~ip~name.namespace~domain``, as istiod splits it."""
        domain = f"{self.namespace}.svc.cluster.local"
        return f"{self.kind}~{self.ip}~{self.name}.{self.namespace}~{domain}"

    def all_metadata(self) -> dict[str, Any]:
        """What the node message carries."""
        return {
            "NAME": self.name,
            "NAMESPACE": self.namespace,
            "INSTANCE_IPS": self.ip,
            "NODE_NAME": self.node_name,
        } | self.metadata


class Update(msgspec.Struct, frozen=True):
    """The good part of one response; apply ``changed`` before ``removed``."""

    type_url: str
    changed: Mapping[str, Resource]
    removed: frozenset[str] = frozenset()


class Received(msgspec.Struct, frozen=True):
    """One response, read. Apply ``update``, then call ``DeltaClient.answer``."""

    update: Update
    rejected: tuple[BadResource, ...]
    nonce: str
    versions: Mapping[str, str]
    """Of the resources in ``update.changed`` that were really readable."""
    named: frozenset[str] = frozenset()
    """Every name that the response says something about: also aliases and removals."""


class DeltaClient:
    """One subscription to every resource of some types, and to single ones of others."""

    def __init__(
        self, node: NodeInfo, types: Sequence[str], on_demand: Collection[str] = ()
    ) -> None:
        """``on_demand`` are those of ``types`` of which only demanded resources are wanted."""
        self._node = node
        self._types = tuple(types)
        self._demanded: dict[str, set[str]] = {type_url: set() for type_url in on_demand}
        self._absent: dict[str, None] = {}
        """Demanded names behind which there is nothing, the oldest first."""
        self._held: dict[str, dict[str, str]] = {type_url: {} for type_url in types}
        self._answered: set[str] = set()

    @property
    def synced(self) -> bool:
        """Every type has been answered at least once."""
        return self._answered.issuperset(self._types)

    def held(self, type_url: str) -> Mapping[str, str]:
        """Accepted resources and their versions."""
        return self._held[type_url]

    def connect(self) -> list[pb.DeltaDiscoveryRequest]:
        """The first requests of every new stream; what we hold goes along."""
        requests = []
        for type_url in self._types:
            request = pb.DeltaDiscoveryRequest(
                type_url=type_url, initial_resource_versions=self._held[type_url]
            )
            if type_url in self._demanded:
                # "Not everything": how istiod tells this from a client that names nothing.
                request.resource_names_subscribe.append(WILDCARD)
                request.resource_names_subscribe.extend(sorted(self._demanded[type_url]))
                request.resource_names_unsubscribe.append(WILDCARD)
            request.node.id = self._node.id
            request.node.metadata.update(self._node.all_metadata())
            requests.append(request)
        return requests

    def demand(self, type_url: str, name: str) -> pb.DeltaDiscoveryRequest | None:
        """Subscribe to one name; None where that is not needed (any more)."""
        names = self._demanded.get(type_url)
        if names is None or name in names:
            return None
        names.add(name)
        request = pb.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=[name])
        if len(self._absent) > MAX_ABSENT:
            oldest = next(iter(self._absent))
            self._absent.pop(oldest)
            names.discard(oldest)
            request.resource_names_unsubscribe.append(oldest)
        return request

    def _note_absent(self, received: Received) -> None:
        for name in received.named.intersection(*self._demanded.values()):
            if name in received.update.removed:
                self._absent[name] = None
            else:
                self._absent.pop(name, None)

    def feed(self, response: pb.DeltaDiscoveryResponse) -> Received:
        """Read a response. Whatever it contains, the readable resources come out."""
        changed: dict[str, Resource] = {}
        versions: dict[str, str] = {}
        rejected: list[BadResource] = []
        for item in response.resources:
            try:
                value = _read(response.type_url, item)
            except BadResource as bad:
                bad.name = item.name
                rejected.append(bad)
                if stand_in := self._stand_in(response.type_url, item):
                    changed[item.name] = stand_in
                continue
            changed[item.name] = value
            versions[item.name] = item.version
        return Received(
            Update(response.type_url, changed, frozenset(response.removed_resources)),
            tuple(rejected),
            response.nonce,
            versions,
            frozenset(response.removed_resources).union(
                *((item.name, *item.aliases) for item in response.resources)
            ),
        )

    def answer(
        self, received: Received, rejected: Iterable[BadResource] = ()
    ) -> pb.DeltaDiscoveryRequest:
        """ACK, or NACK with reasons, after the update was applied.

        ``rejected`` are those that whoever applied the update could not use, by name.
        """
        update = received.update
        late = list(rejected)
        refused = {bad.name for bad in late}
        held = self._held.get(update.type_url)
        if held is not None:
            held.update({n: v for n, v in received.versions.items() if n not in refused})
            for name in update.removed:
                held.pop(name, None)
            self._answered.add(update.type_url)
            if update.type_url in self._demanded:
                self._note_absent(received)
        request = pb.DeltaDiscoveryRequest(type_url=update.type_url, response_nonce=received.nonce)
        if reasons := [str(bad) for bad in (*received.rejected, *late)]:
            request.error_detail.code = INVALID_ARGUMENT
            request.error_detail.message = "; ".join(reasons)[:MAX_REASON_BYTES]
        return request

    def _stand_in(self, type_url: str, item: pb.Resource) -> Resource | None:
        """A policy that cannot be read and has no older version denies all that it selects.

        Leaving it out would allow what somebody meant to deny.
        """
        if type_url != AUTHORIZATION_TYPE or item.name in self._held[type_url]:
            return None
        value = refusing(item.resource.value)
        return value if value is not None and value.key == item.name else None


def _read(type_url: str, item: pb.Resource) -> Resource:
    # A Workload subscription may be answered with the bare message or wrapped in an Address.
    inner = item.resource.type_url or type_url
    if inner != type_url and {inner, type_url} != {ADDRESS_TYPE, WORKLOAD_TYPE}:
        raise BadResource("type_url", inner, f"inside a response of {type_url}")
    value = decode(inner, item.resource.value)
    name = resource_name(value)
    if name != item.name:
        raise BadResource("name", item.name, f"the resource calls itself {name!r}")
    return value
