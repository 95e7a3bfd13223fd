"""Kubernetes' NetworkPolicies on the way of a connection (pain 3).

A pod that no policy selects for a direction is open in it. Otherwise a connection passes where one
rule of one of those policies takes both the peer and the port
(https://kubernetes.io/docs/concepts/services-networking/network-policies/). Between pods of the
mesh the port is 15008, whichever one the application asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Final, NamedTuple

import msgspec

from ambient.kube.core import objects
from ambient.kube.core.resources import KubeObject

INGRESS, EGRESS = "Ingress", "Egress"
PEERS: Final = {INGRESS: "from", EGRESS: "to"}


class Pod(NamedTuple):
    """One end of a connection; of an end outside the cluster only the address is known."""

    namespace: str = ""
    name: str = ""
    ips: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    namespace_labels: Mapping[str, str] = {}
    ports: Mapping[str, int] = {}
    """Named ports of its containers."""


class Closed(NamedTuple):
    """Who closes the way, and the smallest change that opens it."""

    by: str
    what: str
    change: str


def closed(policies: Iterable[KubeObject], client: Pod, server: Pod, port: int) -> Closed | None:
    """The first end at which no rule lets the connection through; None where it passes."""
    known = list(policies)
    return _closed_at(known, EGRESS, client, server, port) or _closed_at(
        known, INGRESS, server, client, port
    )


def _closed_at(
    policies: Iterable[KubeObject], direction: str, own: Pod, peer: Pod, port: int
) -> Closed | None:
    selecting = [one for one in policies if selects(one, direction, own)]
    if not selecting:
        return None
    server = own if direction == INGRESS else peer
    nearest = ""
    for policy in selecting:
        for place, rule in _rules(policy, direction):
            if not _admits(rule.get(PEERS[direction]), policy, peer):
                continue
            if _opens(rule.get("ports"), port, server):
                return None
            nearest = nearest or (
                f"add {{protocol: TCP, port: {port}}} to the ports of {place} of {label_of(policy)}"
            )
    names = ", ".join(map(label_of, selecting))
    word, preposition = ("in", "from") if direction == INGRESS else ("out", "to")
    what = f"no rule lets TCP to port {port} {word}, so the connection times out"
    add = f"a rule {preposition} {_place(peer)} with port {port} in {label_of(selecting[0])}"
    return Closed(names, what, nearest or f"add {add}")


def selects(policy: KubeObject, direction: str, pod: Pod) -> bool:
    """Whether a policy closes this direction of a pod but for what its rules open."""
    spec = _mapping(policy.get("spec"))
    if not pod.namespace or policy["metadata"].get("namespace") != pod.namespace:
        return False
    types = _listed(spec.get("policyTypes"))
    if not types:  # the default of Kubernetes
        types = [INGRESS, *([EGRESS] if "egress" in spec else [])]
    return direction in types and _matches(spec.get("podSelector"), pod.labels)


def _rules(policy: KubeObject, direction: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    field = direction.lower()
    for number, rule in enumerate(_listed(_mapping(policy.get("spec")).get(field))):
        yield f"spec.{field}[{number}]", _mapping(rule)


def _admits(peers: Any, policy: KubeObject, pod: Pod) -> bool:
    if not peers:
        return True
    own = str(policy["metadata"].get("namespace"))
    return any(_is_peer(_mapping(one), own, pod) for one in _listed(peers))


def _is_peer(peer: Mapping[str, Any], own: str, pod: Pod) -> bool:
    if "ipBlock" in peer:
        return any(_inside(_mapping(peer["ipBlock"]), ip) for ip in pod.ips)
    if not pod.namespace:
        return False
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], pod.namespace_labels):
            return False
    elif pod.namespace != own:
        return False
    return "podSelector" not in peer or _matches(peer["podSelector"], pod.labels)


def _opens(ports: Any, wanted: int, server: Pod) -> bool:
    if not ports:
        return True
    for one in map(_mapping, _listed(ports)):
        if one.get("protocol", "TCP") != "TCP":
            continue
        first = one.get("port")
        if first is None:
            return True
        number = server.ports.get(first) if isinstance(first, str) else first
        end = one.get("endPort", number)
        if isinstance(number, int) and isinstance(end, int) and number <= wanted <= end:
            return True
    return False


def _inside(block: Mapping[str, Any], ip: str) -> bool:
    try:
        address = ip_address(ip)
        if address not in ip_network(str(block.get("cidr")), strict=False):
            return False
        excepted = _listed(block.get("except"))
        return not any(address in ip_network(str(one), strict=False) for one in excepted)
    except ValueError:
        return False


def _matches(selector: Any, labels: Mapping[str, str]) -> bool:
    try:
        wanted = msgspec.convert(selector or {}, objects.LabelSelector)
    except msgspec.ValidationError:
        return False
    return objects.matches(wanted, dict(labels))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def label_of(policy: KubeObject) -> str:
    """For messages."""
    metadata = policy["metadata"]
    return f"NetworkPolicy {metadata.get('namespace')}/{metadata['name']}"


def _place(pod: Pod) -> str:
    if not pod.namespace:
        return f"ipBlock {pod.ips[0]}" if pod.ips else "the client"
    return f"pods of namespace {pod.namespace}"


def pod_of(pod: KubeObject, namespace: KubeObject | None) -> Pod:
    """A pod as policies look at it."""
    metadata, spec = pod["metadata"], _mapping(pod.get("spec"))
    ports = {
        str(port["name"]): int(port["containerPort"])
        for container in spec.get("containers") or ()
        for port in container.get("ports") or ()
        if "name" in port and "containerPort" in port
    }
    status = _mapping(pod.get("status"))
    ips = [one.get("ip") for one in status.get("podIPs") or ()] or [status.get("podIP")]
    return Pod(
        namespace=str(metadata.get("namespace", "")),
        name=str(metadata["name"]),
        ips=tuple(str(ip) for ip in ips if ip),
        labels=metadata.get("labels") or {},
        namespace_labels=((namespace or {}).get("metadata") or {}).get("labels") or {},
        ports=ports,
    )
