"""Service addresses as nftables rules: what kube-proxy does, as one text per change. Pure.

Each service port is one map entry to one chain, the chain a random choice among ready endpoints;
the whole table is replaced in one transaction, established connections keep their translation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ambient.kube.core.resources import KubeObject
from ambientctl.local.layout import SERVICE_RANGE

TABLE: Final = "ip services"


class Target(NamedTuple):
    """An endpoint of a service port."""

    address: str
    port: int


class ServicePort(NamedTuple):
    """A port of a service address and its ready endpoints."""

    address: str
    protocol: str
    """``tcp`` or ``udp``."""
    port: int
    targets: tuple[Target, ...]


def service_ports(
    services: Iterable[KubeObject], slices: Iterable[KubeObject]
) -> list[ServicePort]:
    """All ports of all services with a cluster address, in a stable order."""
    by_service: dict[tuple[str, str], list[KubeObject]] = {}
    for endpoint_slice in slices:
        metadata = endpoint_slice["metadata"]
        name = (metadata.get("labels") or {}).get("kubernetes.io/service-name", "")
        by_service.setdefault((metadata["namespace"], name), []).append(endpoint_slice)
    found = []
    for service in services:
        metadata, spec = service["metadata"], service["spec"]
        addresses = [a for a in _cluster_addresses(spec) if ":" not in a]
        own = by_service.get((metadata["namespace"], metadata["name"]), [])
        for port in spec.get("ports") or []:
            protocol = port.get("protocol", "TCP").lower()
            targets = _targets(own, port.get("name") or "", port.get("protocol", "TCP"))
            found += [ServicePort(a, protocol, port["port"], targets) for a in addresses]
    return sorted(found)


def _cluster_addresses(spec: Mapping[str, Any]) -> list[str]:
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [address for address in addresses if address and address != "None"]


def _targets(slices: Sequence[KubeObject], name: str, protocol: str) -> tuple[Target, ...]:
    found = set()
    for endpoint_slice in slices:
        if endpoint_slice.get("addressType", "IPv4") != "IPv4":
            continue
        for port in endpoint_slice.get("ports") or []:
            if (port.get("name") or "") != name or port.get("protocol", "TCP") != protocol:
                continue
            for endpoint in endpoint_slice.get("endpoints") or []:
                # Absent means ready (EndpointConditions, API reference).
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    found |= {Target(a, port["port"]) for a in endpoint.get("addresses") or []}
    return tuple(sorted(found))


def ruleset(ports: Sequence[ServicePort]) -> str:
    """The text for ``nft -f -`` on a node; applying it twice changes nothing."""
    served = [port for port in ports if port.targets]
    empty = [port for port in ports if not port.targets]
    targets = sorted({target.address for port in served for target in port.targets})
    lines = [f"table {TABLE}", f"delete table {TABLE}", f"table {TABLE} {{"]
    lines += _map(
        "ports",
        "ipv4_addr . inet_proto . inet_service : verdict",
        [f"{_key(port)} : goto svc-{index}" for index, port in enumerate(served)],
    )
    lines += _set("refused", "ipv4_addr . inet_proto . inet_service", [_key(p) for p in empty])
    lines += _set("loops", "ipv4_addr . ipv4_addr", [f"{a} . {a}" for a in targets])
    for index, port in enumerate(served):
        lines += [f"  chain svc-{index} {{", f"    {_choice(port)}", "  }"]
    look_up = "ip daddr . meta l4proto . th dport"
    for hook, priority in (("prerouting", -100), ("output", -100)):
        lines += [
            f"  chain {hook}-refused {{",
            f"    type filter hook {hook} priority {priority - 50};",
            f"    ct state new {look_up} @refused meta l4proto tcp reject with tcp reset",
            f"    ct state new {look_up} @refused reject with icmp port-unreachable",
            "  }",
            f"  chain {hook} {{",
            f"    type nat hook {hook} priority {priority};",
            f"    {look_up} vmap @ports",
            "  }",
        ]
    lines += [
        # A service address without such a port: refuse at once instead of losing packets.
        "  chain forward {",
        "    type filter hook forward priority 0;",
        f"    ip daddr {SERVICE_RANGE} reject with icmp port-unreachable",
        "  }",
        # A pod that reaches itself through a service must see the node as the caller.
        "  chain postrouting {",
        "    type nat hook postrouting priority 100;",
        "    ct status dnat ip saddr . ip daddr @loops masquerade",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _key(port: ServicePort) -> str:
    return f"{port.address} . {port.protocol} . {port.port}"


def _choice(port: ServicePort) -> str:
    if len(port.targets) == 1:
        target = port.targets[0]
        return f"meta l4proto {port.protocol} dnat to {target.address}:{target.port}"
    cases = ", ".join(f"{i} : {t.address} . {t.port}" for i, t in enumerate(port.targets))
    count = len(port.targets)
    return f"meta l4proto {port.protocol} dnat to numgen random mod {count} map {{ {cases} }}"


def _map(name: str, kind: str, elements: Sequence[str]) -> list[str]:
    return _collection("map", name, kind, elements)


def _set(name: str, kind: str, elements: Sequence[str]) -> list[str]:
    return _collection("set", name, kind, elements)


def _collection(what: str, name: str, kind: str, elements: Sequence[str]) -> list[str]:
    lines = [f"  {what} {name} {{", f"    type {kind};"]
    if elements:
        lines.append(f"    elements = {{ {', '.join(elements)} }}")
    return [*lines, "  }"]
