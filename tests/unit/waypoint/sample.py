"""A small mesh for tests: service reviews with v1 and v2 behind a waypoint, and its callers."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from ambient.api.address import HostPort, NetworkAddress
from ambient.api.config import ConfigObject
from ambient.api.service import AppProtocol, GatewayAddress, NamespacedHostname, Port, Service
from ambient.api.spiffe import Identity
from ambient.api.type_urls import ADDRESS_TYPE
from ambient.api.workload import TunnelProtocol, Workload
from ambient.state.core.mesh import MeshState
from waypoint.core.dispatch import Self
from waypoint.core.message import Headers, Peer, Request
from waypoint.core.place import Place
from waypoint.core.program import Program

PLACE = Place(namespace="shop", gateway="waypoint")
OWN = Self(PLACE, frozenset())
WAYPOINT = GatewayAddress(NamespacedHostname("shop", "waypoint.shop.svc.cluster.local"))
REVIEWS = NamespacedHostname("shop", "reviews.shop.svc.cluster.local")
RATINGS = NamespacedHostname("shop", "ratings.shop.svc.cluster.local")
VIP = "10.96.0.10"
CURL = Identity("cluster.local", "shop", "curl")
INTRUDER = Identity("cluster.local", "outside", "intruder")
AT = HostPort(VIP, 9080)


def service(name: str = "reviews", vip: str = VIP, **changes: Any) -> Service:
    given = {
        "name": name,
        "namespace": "shop",
        "hostname": f"{name}.shop.svc.cluster.local",
        "addresses": (NetworkAddress("", ip_address(vip)),),
        "ports": (Port(9080, 9080, AppProtocol.HTTP11),),
        "waypoint": WAYPOINT,
    }
    return Service(**(given | changes))


def workload(name: str, ip: str, version: str, of: str = "reviews", **changes: Any) -> Workload:
    given = {
        "uid": f"Kubernetes//Pod/shop/{name}",
        "name": name,
        "namespace": "shop",
        "addresses": (ip_address(ip),),
        "tunnel_protocol": TunnelProtocol.HBONE,
        "service_account": of,
        "services": {
            NamespacedHostname("shop", f"{of}.shop.svc.cluster.local"): (Port(9080, 9080),)
        },
        "labels": {"app": of, "version": version},
        "canonical_name": of,
        "canonical_revision": version,
        "workload_name": name,
    }
    return Workload(**(given | changes))


def mesh(*more: Service | Workload) -> MeshState:
    state = MeshState()
    things = [
        service(),
        service("ratings", "10.96.0.11"),
        workload("reviews-v1", "10.0.0.1", "v1"),
        workload("reviews-v2", "10.0.0.2", "v2"),
        workload("ratings-v1", "10.0.0.3", "v1", of="ratings"),
        *more,
    ]
    names = [t.uid if isinstance(t, Workload) else str(t.key) for t in things]
    state.apply(ADDRESS_TYPE, dict(zip(names, things, strict=True)))
    return state


def config(
    kind: str, name: str, spec: Any, namespace: str = "shop", **metadata: Any
) -> ConfigObject:
    return ConfigObject(
        api_version="test",
        kind=kind,
        name=name,
        namespace=namespace,
        object={"metadata": {"name": name, "namespace": namespace, **metadata}, "spec": spec},
    )


def virtual_service(
    *rules: Any, hosts: tuple[str, ...] = ("reviews",), **spec: Any
) -> ConfigObject:
    return config("VirtualService", "reviews", {"hosts": list(hosts), "http": list(rules), **spec})


def subsets(**changes: Any) -> ConfigObject:
    named = [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]
    return config("DestinationRule", "reviews", {"host": "reviews", "subsets": named, **changes})


def to_subset(version: str, weight: int | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"destination": {"host": "reviews", "subset": version}}
    return entry if weight is None else {**entry, "weight": weight}


def policy(rules: Any, action: str = "ALLOW", name: str = "p", **changes: Any) -> ConfigObject:
    spec = {
        "targetRefs": [{"kind": "Service", "group": "", "name": "reviews"}],
        "action": action,
        "rules": rules,
    }
    metadata = changes.pop("metadata", {})
    namespace = changes.pop("namespace", "shop")
    return config("AuthorizationPolicy", name, {**spec, **changes}, namespace, **metadata)


def program(*objects: ConfigObject, place: Place = PLACE) -> Program:
    return Program(place).changed(objects)


def request(
    method: str = "GET",
    target: str = "/",
    *,
    source: Identity | None = CURL,
    ip: str = "10.0.9.9",
    host: str = "reviews:9080",
    headers: dict[str, str] | None = None,
    local: HostPort = AT,
    sni: str = "",
) -> Request:
    return Request(
        method=method,
        target=target,
        authority=host,
        headers=Headers((headers or {}).items()),
        peer=Peer(source, ip_address(ip)),
        local=local,
        sni=sni,
    )
