"""Any workload, service or policy that a control plane could mean."""

from ipaddress import ip_network

from hypothesis import strategies as st

from ambient.api import policy, service, workload
from ambient.api.address import NetworkAddress, canonical
from ambient.api.config import ConfigObject

NAMES = st.text(st.characters(categories=["Ll", "Nd"], include_characters="-."), min_size=1)
TEXTS = st.text(max_size=20)
IPS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(canonical)
PORTS = st.integers(1, 65535)


@st.composite
def _networks(draw):
    ip = draw(IPS)
    return ip_network((ip, draw(st.integers(0, ip.max_prefixlen))), strict=False)


# An IPv6 range of fewer than 96 bits that begins in ::ffff:0:0/96 has no IPv4 form to become.
NETWORKS = _networks().filter(lambda n: n.version == 4 or n.network_address.ipv4_mapped is None)
HOSTNAMES = st.builds(service.NamespacedHostname, NAMES, NAMES)
ADDRESSES = st.builds(NetworkAddress, TEXTS, IPS)
GATEWAYS = st.builds(service.GatewayAddress, HOSTNAMES | ADDRESSES, PORTS)
SERVICE_PORTS = st.builds(
    service.Port, PORTS, st.integers(0, 65535), st.sampled_from(service.AppProtocol)
)


def tuples(values, most=3):
    return st.lists(values, max_size=most).map(tuple)


WORKLOADS = st.builds(
    workload.Workload,
    uid=NAMES,
    name=TEXTS,
    namespace=TEXTS,
    addresses=tuples(IPS),
    network=TEXTS,
    hostname=TEXTS,
    tunnel_protocol=st.sampled_from([workload.TunnelProtocol.NONE, workload.TunnelProtocol.HBONE]),
    trust_domain=NAMES,
    service_account=NAMES,
    waypoint=st.none() | GATEWAYS,
    network_gateway=st.none() | GATEWAYS,
    node=TEXTS,
    canonical_name=TEXTS,
    canonical_revision=TEXTS,
    workload_type=st.sampled_from(workload.WorkloadType),
    workload_name=TEXTS,
    native_tunnel=st.booleans(),
    authorization_policies=tuples(NAMES),
    status=st.sampled_from(workload.WorkloadStatus),
    cluster_id=NAMES,
    services=st.dictionaries(HOSTNAMES, tuples(SERVICE_PORTS), max_size=3),
    application_tunnel=st.none()
    | st.builds(
        workload.ApplicationTunnel,
        st.sampled_from(workload.ApplicationTunnelProtocol),
        st.integers(0, 65535),
    ),
    locality=st.builds(workload.Locality, TEXTS, TEXTS, TEXTS),
    network_mode=st.sampled_from(workload.NetworkMode),
    capacity=st.integers(0, 2**32 - 1),
    labels=st.dictionaries(TEXTS, TEXTS, max_size=3),
)

SERVICES = st.builds(
    service.Service,
    name=TEXTS,
    namespace=NAMES,
    hostname=NAMES,
    addresses=tuples(ADDRESSES),
    ranges=tuples(
        st.builds(service.AddressRange, TEXTS, NETWORKS.filter(lambda n: n.num_addresses > 1))
    ),
    ports=tuples(SERVICE_PORTS),
    subject_alt_names=tuples(NAMES),
    waypoint=st.none() | GATEWAYS,
    load_balancing=st.builds(
        service.LoadBalancing,
        tuples(st.sampled_from(service.Scope)),
        st.sampled_from(service.Mode),
        st.sampled_from(service.HealthPolicy),
    ),
    ip_families=st.sampled_from(service.IPFamilies),
    canonical=st.booleans(),
    ingress_use_waypoint=st.booleans(),
    weighted_waypoints=tuples(
        st.builds(service.WeightedWaypoint, GATEWAYS, st.integers(0, 2**32 - 1))
    ),
    visibility=st.sampled_from(service.Visibility),
)

STRING_MATCHES = st.one_of(
    st.builds(
        policy.StringMatch,
        st.sampled_from([policy.MatchKind.EXACT, policy.MatchKind.PREFIX, policy.MatchKind.SUFFIX]),
        NAMES,
    ),
    st.just(policy.StringMatch(policy.MatchKind.PRESENCE)),
)
ACCOUNTS = st.builds(policy.ServiceAccountMatch, NAMES, NAMES)
MATCHES = st.builds(
    policy.Match,
    namespaces=tuples(STRING_MATCHES),
    not_namespaces=tuples(STRING_MATCHES),
    principals=tuples(STRING_MATCHES),
    not_principals=tuples(STRING_MATCHES),
    source_ips=tuples(NETWORKS),
    not_source_ips=tuples(NETWORKS),
    destination_ips=tuples(NETWORKS),
    not_destination_ips=tuples(NETWORKS),
    destination_ports=tuples(PORTS),
    not_destination_ports=tuples(PORTS),
    service_accounts=tuples(ACCOUNTS),
    not_service_accounts=tuples(ACCOUNTS),
)
AUTHORIZATIONS = st.builds(
    policy.Authorization,
    name=NAMES,
    namespace=NAMES,
    scope=st.sampled_from(policy.Scope),
    action=st.sampled_from(policy.Action),
    groups=tuples(tuples(tuples(MATCHES, 2), 2), 2),
    dry_run=st.booleans(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.builds(
    ConfigObject,
    api_version=NAMES,
    kind=NAMES,
    namespace=TEXTS,
    name=NAMES,
    generation=st.integers(0, 2**60),
    object=st.dictionaries(TEXTS, JSON, max_size=3),
)
