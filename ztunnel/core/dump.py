"""The mesh state as ``/config_dump`` shows it: ztunnel's JSON, which istioctl reads.

Empty and default values are left out, as upstream does, except for the few that it always writes.
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ambient.api.address import NetworkAddress
from ambient.api.errors import MeshError
from ambient.api.policy import Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.service import GatewayAddress, IPFamilies, LoadBalancing, Mode, Port, Service
from ambient.api.spiffe import Identity
from ambient.api.workload import TunnelProtocol, Workload
from ambient.identity.core.svid import Svid
from ambient.state.core.mesh import Endpoint

Json = dict[str, Any]

_FAMILIES = {
    IPFamilies.DUAL: "Dual",
    IPFamilies.IPV4_ONLY: "IPv4",
    IPFamilies.IPV6_ONLY: "IPv6",
}


def workload(one: Workload) -> Json:
    """One entry of ``workloads``."""
    protocol = "HBONE" if one.tunnel_protocol is TunnelProtocol.HBONE else "TCP"
    always = {
        "workloadIps": [str(ip) for ip in one.addresses],
        "protocol": protocol,
        "networkMode": _camel(one.network_mode.name),
        "name": one.name,
        "namespace": one.namespace,
        "status": _camel(one.status.name),
        "clusterId": one.cluster_id,
        "capacity": one.capacity,
    }
    tunnel = one.application_tunnel
    locality = one.locality
    known = {
        "uid": one.uid,
        "waypoint": _gateway(one.waypoint),
        "networkGateway": _gateway(one.network_gateway),
        "trustDomain": one.trust_domain,
        "serviceAccount": one.service_account,
        "network": one.network,
        "workloadName": one.workload_name,
        "workloadType": one.workload_type.name.lower(),
        "canonicalName": one.canonical_name,
        "canonicalRevision": one.canonical_revision,
        "hostname": one.hostname,
        "node": one.node,
        "nativeTunnel": one.native_tunnel,
        "applicationTunnel": tunnel and {"protocol": tunnel.protocol.name, "port": tunnel.port},
        "authorizationPolicies": list(one.authorization_policies),
        "locality": _known(
            {"region": locality.region, "zone": locality.zone, "subzone": locality.subzone}
        ),
        "services": [str(key) for key in one.services],
    }
    return _known(known) | always


def service(one: Service, endpoints: Iterable[Endpoint]) -> Json:
    """One entry of ``services``."""
    always = {
        "name": one.name,
        "namespace": one.namespace,
        "hostname": one.hostname,
        "vips": [_spell(address) for address in one.addresses],
        "ports": _ports(one.ports),
        "endpoints": {
            found.uid: {
                "workloadUid": found.uid,
                "port": _ports(ports),
                "status": _camel(found.status.name),
            }
            for found, ports in endpoints
        },
    }
    known = {
        "cidrVips": [{"network": r.network, "cidr": str(r.cidr)} for r in one.ranges],
        "subjectAltNames": list(one.subject_alt_names),
        "waypoint": _gateway(one.waypoint),
        "weightedWaypoints": [
            {"destination": _gateway(w.destination), "weight": w.weight}
            for w in one.weighted_waypoints
        ],
        "loadBalancer": _balancing(one.load_balancing),
        "ipFamilies": _FAMILIES.get(one.ip_families, ""),
        "canonical": one.canonical,
        "visibility": _camel(one.visibility.name),
    }
    return always | _known(known)


def policy(one: Authorization) -> Json:
    """One entry of ``policies``."""
    return {
        "name": one.name,
        "namespace": one.namespace,
        "scope": _camel(Scope(one.scope).name),
        "action": _camel(one.action.name),
        "rules": [[[_match(m) for m in clause] for clause in group] for group in one.groups],
        "dryRun": one.dry_run,
    }


def certificate(identity: Identity, found: Svid | MeshError | None, failure: str = "") -> Json:
    """One entry of ``certificates``: what is there, why not, or that it is being fetched.

    ``lastError``, which upstream does not have: why it is not renewed although it should be.
    """
    entry: Json = {"identity": str(identity), "certChain": [], "rootCerts": []}
    if failure:
        entry["lastError"] = failure
    if found is None:
        return entry | {"state": "Initializing"}
    if not isinstance(found, Svid):
        return entry | {"state": f"Unavailable: {found}"}
    return entry | {
        "state": "Available",
        "certChain": _pem_entries(found.certificate_chain_pem),
        "rootCerts": _pem_entries(found.roots_pem),
    }


def build(version: str) -> Json:
    """``version``: istioctl shows the first two; upstream's other keys say what we are instead."""
    return {
        "version": version,
        "gitRevision": "unknown",
        "rustVersion": f"none (Python {platform.python_version()})",
        "buildProfile": "release",
        "buildStatus": "Clean",
        "istioVersion": "unknown",
        "cryptoProvider": "openssl",
    }


def config(settings: msgspec.Struct) -> Json:
    """``config``: every setting by its name in camel case; a time as seconds and nanoseconds.

    Headers are left out, because they may carry credentials.
    """
    shown: Json = {}
    for one in msgspec.structs.fields(settings):
        if one.name.endswith("_headers"):
            continue
        value = getattr(settings, one.name)
        seconds = one.name.endswith("_s")
        name = one.name.removesuffix("_s") if seconds else one.name
        if seconds and value is not None:
            whole = int(value)
            value = {"secs": whole, "nanos": round((value - whole) * 1e9)}
        head, *rest = name.split("_")
        shown[head + "".join(part.capitalize() for part in rest)] = msgspec.to_builtins(value)
    return shown


def _pem_entries(pem: bytes) -> list[dict[str, str]]:
    return [
        {
            "pem": base64.b64encode(cert.public_bytes(Encoding.PEM)).decode(),
            "serialNumber": str(cert.serial_number),
            "validFrom": _time(cert.not_valid_before_utc),
            "expirationTime": _time(cert.not_valid_after_utc),
        }
        for cert in x509.load_pem_x509_certificates(pem)
    ]


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _match(match: Match) -> Json:
    fields: Json = {}
    for name in match.__struct_fields__:
        values = getattr(match, name)
        if values:
            head, *rest = name.split("_")
            fields[head + "".join(part.capitalize() for part in rest)] = [
                _match_value(value) for value in values
            ]
    return fields


def _match_value(value: object) -> object:
    if isinstance(value, StringMatch):
        name = value.kind.name.capitalize()
        return {name: [] if value.kind is MatchKind.PRESENCE else value.value}
    if isinstance(value, int):
        return value
    if isinstance(value, tuple):
        namespace, account = value
        return {"namespace": namespace, "serviceAccount": account}
    return str(value)


def _ports(ports: Iterable[Port]) -> Json:
    return {str(port.service_port): port.target_port for port in ports}


def _balancing(balancing: LoadBalancing) -> Json:
    if balancing == LoadBalancing():
        return {}
    mode = "Standard" if balancing.mode is Mode.UNSPECIFIED_MODE else _camel(balancing.mode.name)
    return {
        "routingPreferences": [_camel(scope.name) for scope in balancing.routing_preference],
        "mode": mode,
        "healthPolicy": _camel(balancing.health_policy.name),
    }


def _gateway(gateway: GatewayAddress | None) -> Json:
    if gateway is None:
        return {}
    return {
        "destination": _spell(gateway.destination),
        "hboneMtlsPort": gateway.hbone_mtls_port,
    }


def _spell(destination: object) -> str:
    if isinstance(destination, NetworkAddress):
        return f"{destination.network}/{destination.ip}"
    return str(destination)


def _camel(name: str) -> str:
    """``HOST_NETWORK`` is ``HostNetwork``."""
    return "".join(part.capitalize() for part in name.split("_"))


def _known(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value}
