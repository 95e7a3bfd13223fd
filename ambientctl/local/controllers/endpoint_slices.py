"""EndpointSlices: where the pods behind a Service answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.defaults import containers
from ambientctl.local.apiserver.core.kinds import ENDPOINT_SLICES, PODS, SERVICES
from ambientctl.local.apiserver.core.status import Object
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Command, Create, Delete, Replace
from ambientctl.local.controllers.loop import Controller, Key, key_of
from ambientctl.local.controllers.pods import (
    FINISHED,
    is_ready,
    is_terminating,
    owner_reference,
    phase,
)

NAME: Final = "endpointslice-controller"
SERVICE_LABEL: Final = "kubernetes.io/service-name"
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
MANAGER: Final = "endpointslice-controller.k8s.io"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"

Ports = tuple[tuple[str, int, str, str], ...]
"""(name, port, protocol, appProtocol) of every service port, as one pod resolves them."""


def decide(
    service: Object | None, pods: Sequence[Object], slices: Sequence[Object]
) -> list[Command]:
    """One slice for every way in which the pods resolve the ports; the others go.

    ``pods`` are those the selector takes; ``slices`` the managed ones of this service.
    """
    wanted = _wanted(service, pods) if service is not None else {}
    commands: list[Command] = []
    for found in slices:
        endpoints = wanted.pop(_ports_of(found), None)
        if endpoints is None:
            metadata = found["metadata"]
            commands.append(Delete(ENDPOINT_SLICES, metadata["namespace"], metadata["name"]))
        elif endpoints != (found.get("endpoints") or []):
            commands.append(Replace(ENDPOINT_SLICES, {**found, "endpoints": endpoints}))
    if service is not None:
        commands += [
            Create(ENDPOINT_SLICES, _slice(service, ports, endpoints))
            for ports, endpoints in wanted.items()
        ]
    return commands


def _wanted(service: Object, pods: Sequence[Object]) -> dict[Ports, list[Object]]:
    """The endpoints for every way in which the pods resolve the ports."""
    found: dict[Ports, list[Object]] = {}
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    for pod in sorted(pods, key=lambda p: str(p["metadata"]["name"])):
        if (pod.get("status") or {}).get("podIP") and phase(pod) not in FINISHED:
            found.setdefault(_resolve(service, pod), []).append(_endpoint(pod, publish))
    # A service without endpoints still has one, empty, slice: watchers see that it is known.
    return found or {_resolve(service, None): []}


def _resolve(service: Object, pod: Object | None) -> Ports:
    """The service's ports as this pod offers them; a named port that it lacks is left out."""
    ports = []
    for port in service["spec"].get("ports") or ():
        target = port.get("targetPort") or port["port"]
        if isinstance(target, str):
            target = _named_port(pod, target, port["protocol"]) if pod else None
        if target is not None:
            app = port.get("appProtocol", "")
            ports.append((port.get("name", ""), target, port["protocol"], app))
    return tuple(ports)


def _named_port(pod: Object, name: str, protocol: str) -> int | None:
    """The number behind a port name in this pod."""
    for container in containers(pod["spec"]):
        for port in container.get("ports") or ():
            if port.get("name") == name and port["protocol"] == protocol:
                return int(port["containerPort"])
    return None


def _endpoint(pod: Object, publish: bool) -> Object:
    """One pod as an endpoint. A terminating pod may still serve, but is never ready."""
    serving, terminating = is_ready(pod), is_terminating(pod)
    metadata = pod["metadata"]
    endpoint: Object = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {
            "ready": publish or (serving and not terminating),
            "serving": publish or serving,
            "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }
    if pod["spec"].get("nodeName"):
        endpoint["nodeName"] = pod["spec"]["nodeName"]
    if pod["spec"].get("hostname") and pod["spec"].get("subdomain"):
        endpoint["hostname"] = pod["spec"]["hostname"]
    return endpoint


def _ports_of(found: Object) -> Ports:
    """The ports of an existing slice, to compare with the wanted ones."""
    return tuple(
        (port.get("name", ""), port["port"], port["protocol"], port.get("appProtocol", ""))
        for port in found.get("ports") or ()
    )


def _slice(service: Object, ports: Ports, endpoints: list[Object]) -> Object:
    """A new slice that belongs to the service."""
    metadata = service["metadata"]
    labels = {
        **(metadata.get("labels") or {}),
        SERVICE_LABEL: metadata["name"],
        MANAGED_BY: MANAGER,
    }
    if service["spec"].get("clusterIP") == "None":
        labels[HEADLESS_LABEL] = ""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{metadata['name']}-",
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [_port(*port) for port in ports],
    }


def _port(name: str, port: int, protocol: str, app_protocol: str) -> Object:
    made: Object = {"name": name, "port": port, "protocol": protocol}
    return {**made, "appProtocol": app_protocol} if app_protocol else made


def _selects(service: Object, pod: Object) -> bool:
    """Does the service's selector take the pod? An empty selector takes none."""
    selector: dict[str, Any] = service["spec"].get("selector") or {}
    return bool(selector) and selector.items() <= (pod["metadata"].get("labels") or {}).items()


def _keys(cluster: Cluster, change: Change) -> Iterable[Key]:
    if change.key == SERVICES:
        return [key_of(change)]
    metadata = change.object["metadata"]
    namespace = metadata["namespace"]
    if change.key == ENDPOINT_SLICES:
        labels = metadata.get("labels") or {}
        ours = labels.get(MANAGED_BY) == MANAGER and SERVICE_LABEL in labels
        return [(namespace, labels[SERVICE_LABEL])] if ours else []
    forms = [change.object, *([change.old] if change.old else [])]
    return [
        (namespace, service["metadata"]["name"])
        for service in cluster.store.objects(SERVICES, namespace)
        if any(_selects(service, form) for form in forms)
    ]


def _look(cluster: Cluster, key: Key) -> Iterable[Command]:
    namespace, name = key
    service = cluster.store.get(SERVICES, namespace, name)
    if service is not None and not service["spec"].get("selector"):
        service = None
    pods = [
        pod
        for pod in cluster.store.objects(PODS, namespace)
        if service is not None and _selects(service, pod)
    ]
    slices = [
        found
        for found in cluster.store.objects(ENDPOINT_SLICES, namespace)
        if (labels := found["metadata"].get("labels") or {}).get(SERVICE_LABEL) == name
        and labels.get(MANAGED_BY) == MANAGER
    ]
    return decide(service, pods, slices)


CONTROLLER: Final = Controller(NAME, (SERVICES, PODS, ENDPOINT_SLICES), _keys, _look)
