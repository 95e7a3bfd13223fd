"""A connection in the words of the access log and the metrics; facts in, one record out."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from ambient.api.address import HostPort
from ambient.api.service import Service
from ambient.api.spiffe import Identity
from ambient.api.workload import Workload
from ambient.telemetry.core.access_record import AccessRecord, Direction, Endpoint
from ambient.telemetry.core.metric_names import TrafficLabels
from ztunnel.core.route import Protocol, Route

_REMEMBERED: Final = 1024
"""Pairs of workloads: connections are many, who talks to whom changes seldom."""


class Described(NamedTuple):
    """What both outputs say about one connection."""

    record: AccessRecord
    labels: TrafficLabels


def attempt(direction: Direction, peer: HostPort, destination: HostPort) -> AccessRecord:
    """A connection about which nothing more is known yet."""
    return AccessRecord(
        direction=direction,
        source=Endpoint(address=peer),
        destination=Endpoint(address=destination),
    )


class FarEnd(NamedTuple):
    """What answered at the end of a double tunnel: the next hop is only the way there."""

    identity: Identity | None
    """What it has proven."""
    told: Workload | None
    """What it says about itself."""


def outbound(client: Workload, peer: HostPort, hop: Route, far: FarEnd | None = None) -> Described:
    """A connection of our pod, on its way to ``hop``."""
    mutual = hop.protocol is not Protocol.TCP
    server = far.told if far else hop.workload
    identity = far.identity if far else hop.workload.identity if hop.workload else None
    record = AccessRecord(
        direction=Direction.OUTBOUND,
        source=_endpoint(client, peer, client.identity if mutual else None),
        destination=_endpoint(server, hop.target, identity if mutual else None),
        hbone_address=hop.authority,
        service=hop.service.hostname if hop.service else "",
    )
    labels = _labels("source", client, server, hop.service, client.identity if mutual else None)
    if far is not None:
        labels = labels._replace(destination_principal=str(far.identity or ""))
    return Described(record, labels)


class Inbound(NamedTuple):
    """The facts of a connection that has reached our pod."""

    client: Workload | None
    """Whoever has the peer's address; only telemetry relies on it."""
    server: Workload
    peer: HostPort
    local: HostPort
    identity: Identity | None = None
    """What the peer has proven."""
    authority: str = ""
    service: Service | None = None


@lru_cache(_REMEMBERED)
def client_of(known: Workload | None, told: Workload | None) -> Workload | None:
    """Who called: what the control plane says, and where it says nothing, what the caller said."""
    if known is None or told is None:
        return known or told
    return msgspec.structs.replace(
        known,
        cluster_id=known.cluster_id or told.cluster_id,
        workload_name=known.workload_name or told.workload_name,
        canonical_name=known.canonical_name or told.canonical_name,
        canonical_revision=known.canonical_revision or told.canonical_revision,
        locality=known.locality if known.locality.region else told.locality,
    )


def inbound(facts: Inbound) -> Described:
    """A connection to our pod."""
    mutual = facts.identity is not None
    record = AccessRecord(
        direction=Direction.INBOUND,
        source=_endpoint(facts.client, facts.peer, facts.identity),
        destination=_endpoint(facts.server, facts.local, facts.server.identity if mutual else None),
        hbone_address=facts.authority,
        service=facts.service.hostname if facts.service else "",
    )
    labels = _labels("destination", facts.client, facts.server, facts.service, facts.identity)
    return Described(record, labels)


def _endpoint(workload: Workload | None, at: HostPort, identity: Identity | None) -> Endpoint:
    if workload is None:
        return Endpoint(address=at, identity=identity)
    return Endpoint(
        address=at,
        workload=workload.name or workload.canonical_name,
        namespace=workload.namespace,
        identity=identity,
        cluster=workload.cluster_id,
    )


@lru_cache(_REMEMBERED)
def _labels(
    reporter: str,
    source: Workload | None,
    destination: Workload | None,
    service: Service | None,
    proven: Identity | None,
) -> TrafficLabels:
    """``proven``: the source's identity; its principal is only told where mutual TLS says so."""
    labels = TrafficLabels(
        reporter=reporter,
        source_principal=str(proven or ""),
        connection_security_policy="mutual_tls" if proven else "unknown",
    )
    if source is not None:
        labels = labels._replace(
            source_workload=source.workload_name,
            source_canonical_service=source.canonical_name,
            source_canonical_revision=source.canonical_revision,
            source_workload_namespace=source.namespace,
            source_app=source.canonical_name,
            source_version=source.canonical_revision,
            source_cluster=source.cluster_id,
            source_region=source.locality.region,
            source_zone=source.locality.zone,
        )
    if destination is not None:
        labels = labels._replace(
            destination_workload=destination.workload_name,
            destination_canonical_service=destination.canonical_name,
            destination_canonical_revision=destination.canonical_revision,
            destination_workload_namespace=destination.namespace,
            destination_principal=str(destination.identity),
            destination_app=destination.canonical_name,
            destination_version=destination.canonical_revision,
            destination_cluster=destination.cluster_id,
            destination_region=destination.locality.region,
            destination_zone=destination.locality.zone,
        )
    if service is not None:
        labels = labels._replace(
            destination_service=service.hostname,
            destination_service_namespace=service.namespace,
            destination_service_name=service.name,
        )
    return labels
