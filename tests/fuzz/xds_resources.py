"""Any bytes as a resource of each type: decoded whole, or refused by name; never half."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from ambient.api.address import NetworkAddress
from ambient.api.credential import Credential
from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.service import GatewayAddress, NamespacedHostname, Port, Service
from ambient.api.workload import TunnelProtocol, Workload
from ambient.policy.core.decide import Connection, decide
from ambient.state.core.mesh import MeshState
from ambient.xds.core.wire import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    CONFIG_TYPE,
    SECRET_TYPE,
    WORKLOAD_TYPE,
    BadResource,
    decode,
    encode,
    resource_name,
)
from ztunnel.core import dump

_KEY = NamespacedHostname("shop", "api.shop.svc.cluster.local")
_VIP = NetworkAddress("", ip_address("10.96.0.7"))
_VALUES = [
    Workload(
        uid="Kubernetes//Pod/shop/api",
        name="api",
        namespace="shop",
        addresses=(ip_address("10.0.0.1"), ip_address("fd00::1")),
        tunnel_protocol=TunnelProtocol.HBONE,
        services={_KEY: (Port(80, 8080),)},
        waypoint=GatewayAddress(_VIP, 15008),
    ),
    Service(name="api", namespace="shop", hostname=_KEY.hostname, addresses=(_VIP,)),
    Authorization(
        name="p",
        namespace="shop",
        scope=Scope.NAMESPACE,
        action=Action.DENY,
        groups=(
            (
                (
                    Match(principals=(StringMatch(MatchKind.SUFFIX, "/sa/web"),)),
                    Match(source_ips=(ip_network("10.0.0.0/8"),), not_destination_ports=(80,)),
                ),
            ),
        ),
    ),
    Credential("kubernetes://a", b"certificate", b"key"),
    Credential("kubernetes://a-cacert", ca_pem=b"ca", crl_pem=b"crl"),
]
SEEDS = [encode(value)[1] for value in _VALUES]
_CALL = Connection(None, ip_address("10.0.0.9"), ip_address("10.0.0.1"), 80)


def run(data):
    """What was taken can be stored, judged by, shown, sent on, and read back as the same."""
    for type_url in (ADDRESS_TYPE, WORKLOAD_TYPE, AUTHORIZATION_TYPE, CONFIG_TYPE, SECRET_TYPE):
        try:
            value = decode(type_url, data)
        except BadResource as bad:
            reason, value = str(bad), None
        if value is None:
            assert reason.isprintable(), "one line, whatever came"
            continue
        name = resource_name(value)
        again, raw = encode(value)
        assert decode(again, raw) == value
        if type_url in (CONFIG_TYPE, SECRET_TYPE):
            continue
        state = MeshState()
        state.apply(type_url, {name: value}, frozenset())
        for workload in state.workloads:
            decide(state.policies_for(workload), _CALL)
            dump.workload(workload)
        for service in state.services:
            dump.service(service, state.endpoints(service))
        for policy in state.policies:
            dump.policy(policy)
        state.apply(type_url, {}, frozenset({name}))
        assert not [*state.workloads, *state.services, *state.policies]
