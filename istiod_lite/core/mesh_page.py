"""What the web page shows: the index and what was measured, as one value for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ambient.api.policy import Action
from ambient.api.workload import TunnelProtocol, Workload, WorkloadStatus
from ambient.kube.core.objects import AMBIENT_MODE_LABEL
from ambient.telemetry.core.traffic import Decisions, Pair, Party, Rates
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.index import Index
from istiod_lite.core.statuses import WAYPOINT_MISSING, Condition, Wanted
from istiod_lite.core.waypoints import is_waypoint

OUTSIDE = "outside"
"""Node of all clients that no workload is known for."""


class Measured(NamedTuple):
    """What the last look at tunnels and waypoints gave."""

    rates: Mapping[Pair, Rates] = {}
    decisions: Mapping[str, Decisions] = {}
    seconds: float | None = None
    """The time that the rates are over; None while there was only one look."""
    unreachable: tuple[str, ...] = ()
    """Pods whose metrics could not be read."""


class Certificate(NamedTuple):
    """One that somebody may have to renew."""

    name: str
    ends: datetime


class Proxy(NamedTuple):
    """A connected tunnel or waypoint."""

    name: str
    kind: str
    synced: bool
    error: str


class Operation(NamedTuple):
    """How the control plane itself does."""

    version: str
    stale_s: float
    certificates: tuple[Certificate, ...]
    proxies: tuple[Proxy, ...]


def page(index: Index, measured: Measured, operation: Operation) -> dict[str, Any]:
    """The whole page."""
    waypoints = waypoint_keys(index)
    nodes = _nodes(index, waypoints)
    edges = _edges(measured.rates, nodes, waypoints)
    return {
        "version": operation.version,
        "staleSeconds": operation.stale_s,
        "measuredSeconds": measured.seconds,
        "unreachable": list(measured.unreachable),
        "nodes": [nodes[key] for key in sorted(nodes)],
        "edges": edges,
        "policies": _policies(index, measured.decisions),
        "waypoints": [_waypoint(index, key) for key in sorted(waypoints)],
        "certificates": [
            {"name": each.name, "ends": each.ends.isoformat()} for each in operation.certificates
        ],
        "problems": problems(index),
        "proxies": [each._asdict() for each in sorted(operation.proxies)],
    }


def waypoint_keys(index: Index) -> frozenset[ObjectKey]:
    """The Gateways that are waypoints."""
    gateways = index.inputs.gateways
    return frozenset(key for key in gateways if (one := gateways.get(key)) and is_waypoint(one))


def party_id(party: Party) -> str:
    """A node's name in the graph."""
    return f"{party.namespace}/{party.workload}" if party.workload else OUTSIDE


def _nodes(index: Index, waypoints: frozenset[ObjectKey]) -> dict[str, dict[str, Any]]:
    """One node for each group of pods of one owner."""
    groups: dict[Party, list[Workload]] = {}
    for workload in index.workloads.values():
        name = workload.workload_name or workload.name
        groups.setdefault(Party(workload.namespace, name), []).append(workload)
    return {party_id(party): _node(party, pods, waypoints) for party, pods in groups.items()}


def _node(
    party: Party, pods: Iterable[Workload], waypoints: frozenset[ObjectKey]
) -> dict[str, Any]:
    pods = tuple(pods)
    captured = sum(pod.tunnel_protocol is TunnelProtocol.HBONE for pod in pods)
    key = ObjectKey(party.namespace, party.workload)
    return {
        "id": party_id(party),
        "namespace": party.namespace,
        "name": party.workload,
        "kind": "waypoint" if key in waypoints else "workload",
        "pods": len(pods),
        "healthy": sum(pod.status is WorkloadStatus.HEALTHY for pod in pods),
        "inMesh": captured,
        "identities": sorted({str(pod.identity) for pod in pods}),
        "versions": sorted({pod.canonical_revision for pod in pods if pod.canonical_revision}),
        "services": sorted({service.hostname for pod in pods for service in pod.services}),
        "nodes": sorted({pod.node for pod in pods if pod.node}),
    }


def _edges(
    rates: Mapping[Pair, Rates],
    nodes: dict[str, dict[str, Any]],
    waypoints: frozenset[ObjectKey],
) -> list[dict[str, Any]]:
    """The pairs, with nodes for parties that the index does not know."""
    edges = []
    for pair, found in sorted(rates.items()):
        for party in (pair.source, pair.destination):
            if party_id(party) not in nodes:
                nodes[party_id(party)] = _stranger(party, pair.service)
        hop = any(ObjectKey(*party) in waypoints for party in (pair.source, pair.destination))
        edges.append(
            {
                "source": party_id(pair.source),
                "target": party_id(pair.destination),
                "service": pair.service,
                "waypointHop": hop,
                **{_camel(name): value for name, value in msgspec.structs.asdict(found).items()},
            }
        )
    return edges


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _stranger(party: Party, service: str) -> dict[str, Any]:
    """A client outside the mesh, a workload that has just gone, or a service where no backend was
    chosen.
    """
    called = bool(party.workload) and service.startswith(f"{party.workload}.{party.namespace}.")
    return {
        "id": party_id(party),
        "namespace": party.namespace,
        "name": party.workload or OUTSIDE,
        "kind": "service" if called else "unknown",
        "pods": 0,
        "healthy": 0,
        "inMesh": 0,
        "identities": [],
        "versions": [],
        "services": [],
        "nodes": [],
    }


def _policies(index: Index, decisions: Mapping[str, Decisions]) -> list[dict[str, Any]]:
    """Every policy that tunnels or waypoints may decide by, and how often each did."""
    found: dict[str, dict[str, Any]] = {}
    for key, policy in index.authorizations.items():
        found[key] = {
            "name": key,
            "layer": "L4",
            "action": Action(policy.action).name,
            "scope": policy.scope.name.lower().replace("_", " "),
            "dryRun": policy.dry_run,
        }
    for config in index.inputs.configs.values():
        if config.kind == "AuthorizationPolicy":
            key = f"{config.namespace}/{config.name}"
            spec = config.object.get("spec") or {}
            metadata = config.object.get("metadata") or {}
            dry = (metadata.get("annotations") or {}).get("istio.io/dry-run") == "true"
            found.setdefault(
                key,
                {
                    "name": key,
                    "layer": "L7",
                    "action": spec.get("action", "ALLOW"),
                    "scope": "waypoint",
                    "dryRun": dry,
                },
            )
    for key, each in found.items():
        each |= msgspec.structs.asdict(decisions.get(key, Decisions()))
    return [found[key] for key in sorted(found)]


def _waypoint(index: Index, key: ObjectKey) -> dict[str, Any]:
    users = index.bindings.bound(key)
    return {
        "name": str(key),
        "ready": index.ready_instances(key),
        "routes": index.attached_routes(key),
        "users": sorted(f"{ref.kind} {ref.key}" for ref in users),
    }


def problems(index: Index) -> list[dict[str, Any]]:
    """What objects say that cannot be used, and what they ask for without getting it."""
    found = {(each.kind, str(each.key), each.text): each.hint for each in index.remarks()}
    for ref, wanted in index.world.statuses.items():
        for condition in _conditions(wanted):
            # Most conditions are good when they are met; this one is the other way round.
            if condition.met is (condition.type == WAYPOINT_MISSING):
                told = (ref.kind, str(ref.key), condition.message)
                found.setdefault(told, condition.reason)
    for name, reason in _outside(index):
        found.setdefault(("Pod", name, reason), "ambientctl describe pod says why; is its node's "
                         "agent there?")  # fmt: skip
    return [
        {"kind": kind, "object": name, "text": text, "hint": hint}
        for (kind, name, text), hint in sorted(found.items())
    ]


def _conditions(wanted: Wanted) -> Iterable[Condition]:
    for one in wanted:
        if isinstance(one, Condition):
            yield one
        else:
            yield from one.conditions


def _outside(index: Index) -> Iterable[tuple[str, str]]:
    """Pods that run in namespaces of the mesh and that no tunnel has captured."""
    inputs = index.inputs
    for workload in index.workloads.values():
        if workload.tunnel_protocol is TunnelProtocol.HBONE or "/Pod/" not in workload.uid:
            continue
        if workload.cluster_id != index.facts.cluster_id:
            continue
        pod = inputs.pods.get(ObjectKey(workload.namespace, workload.name))
        namespace = inputs.namespaces.get(ObjectKey("", workload.namespace))
        mode = (pod.metadata.label(AMBIENT_MODE_LABEL) if pod else None) or (
            namespace.metadata.label(AMBIENT_MODE_LABEL) if namespace else None
        )
        eligible = pod is not None and not pod.spec.host_network
        if mode == "ambient" and eligible:
            yield f"{workload.namespace}/{workload.name}", "asks to be in the mesh and is not"
