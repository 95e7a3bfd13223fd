"""Which names a tunnel answers itself: the table, most of it from upstream's own tests."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.api.address import NetworkAddress
from ambient.api.service import HealthPolicy, IPFamilies, LoadBalancing, Service, Visibility
from ambient.api.workload import WorkloadStatus
from tests.unit.ztunnel.core.mesh_builder import mesh, workload
from ztunnel.core.dns_message import A_RECORD, AAAA_RECORD
from ztunnel.core.names import Answer, Asker, Forward, Zone, resolve

SHOP = Asker("shop")
CLUSTER = Zone()
SRV = 33
DOMAIN = "svc.cluster.local"


def service(hostname, *vips, namespace="shop", network="", **more):
    return Service(
        name=hostname.partition(".")[0],
        namespace=namespace,
        hostname=hostname,
        addresses=tuple(
            NetworkAddress(*vip) if isinstance(vip, tuple) else NetworkAddress(network, vip)
            for vip in [
                (v[0], ip_address(v[1])) if isinstance(v, tuple) else ip_address(v) for v in vips
            ]
        ),
        **more,
    )


HEADLESS = f"db.shop.{DOMAIN}"
NOT_READY = f"starting.shop.{DOMAIN}"
EVEN_SO = f"gossip.shop.{DOMAIN}"
ONLY_V6 = f"six.shop.{DOMAIN}"
MESH = mesh(
    service(f"api.shop.{DOMAIN}", "10.96.0.1"),
    service(f"api.bank.{DOMAIN}", "10.96.0.2", namespace="bank"),
    service(f"dual.shop.{DOMAIN}", "10.96.0.3", "fd96::3"),
    service(
        f"secret.bank.{DOMAIN}", "10.96.0.4", namespace="bank", visibility=Visibility.NAMESPACE
    ),
    service("www.example.com", "240.240.0.1"),
    service("*.example.org", "240.240.0.2"),
    service("*.deep.example.org", "240.240.0.3"),
    service("none.example.com"),
    service("many.example.com", "240.240.0.5", namespace="a"),
    service("many.example.com", "240.240.0.6", namespace="z"),
    service("mine.example.com", "240.240.0.7", namespace="a", canonical=True),
    service("mine.example.com", "240.240.0.8", namespace="shop"),
    service("true.example.com", "240.240.0.9", namespace="a"),
    service("true.example.com", "240.240.0.10", namespace="b", canonical=True),
    service(f"far.shop.{DOMAIN}", ("east", "10.96.0.5")),
    service(f"both.shop.{DOMAIN}", ("east", "10.96.0.6"), "10.96.0.7"),
    service("api.shop.svc.cluster.remote", "10.96.0.8"),
    service(HEADLESS, ip_families=IPFamilies.IPV4_ONLY),
    service(NOT_READY),
    service(EVEN_SO, load_balancing=LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL)),
    service(ONLY_V6, ip_families=IPFamilies.IPV6_ONLY),
    service(f"elsewhere.shop.{DOMAIN}"),  # as an ExternalName would look
    workload("db-0", "10.1.0.1", "fd01::1", services={HEADLESS: {80: 80}, ONLY_V6: {80: 80}}),
    workload("db-1", "10.1.0.2", "fd01::2", "10.1.0.3", services={HEADLESS: {80: 80}}),
    workload(
        "slow",
        "10.1.0.9",
        services={HEADLESS: {80: 80}, NOT_READY: {80: 80}, EVEN_SO: {80: 80}},
        status=WorkloadStatus.UNHEALTHY,
    ),
)

CASES = [
    # a service by each of its names
    (f"api.shop.{DOMAIN}", ["10.96.0.1"]),
    ("api", ["10.96.0.1"]),
    ("api.shop", ["10.96.0.1"]),
    ("api.shop.svc", ["10.96.0.1"]),
    (f"api.bank.{DOMAIN}", ["10.96.0.2"]),
    ("api.bank", ["10.96.0.2"]),
    ("api.bank.svc", ["10.96.0.2"]),
    ("api.shop.svc.cluster.remote", ["10.96.0.8"]),
    # a resolver appends its search domains: an alias of what was meant
    (f"api.shop.shop.{DOMAIN}", "api.shop", ["10.96.0.1"]),
    (f"api.bank.shop.{DOMAIN}", "api.bank", ["10.96.0.2"]),
    (f"api.shop.svc.shop.{DOMAIN}", "api.shop.svc", ["10.96.0.1"]),
    (f"api.shop.{DOMAIN}.shop.{DOMAIN}", f"api.shop.{DOMAIN}", ["10.96.0.1"]),
    (f"api.shop.{DOMAIN}.{DOMAIN}", f"api.shop.{DOMAIN}", ["10.96.0.1"]),
    (f"api.shop.{DOMAIN}.cluster.local", f"api.shop.{DOMAIN}", ["10.96.0.1"]),
    (f"www.example.com.shop.{DOMAIN}", "www.example.com", ["240.240.0.1"]),
    (f"www.example.com.bank.{DOMAIN}", None),  # a search domain of another namespace
    (f"shop.{DOMAIN}", None),
    (DOMAIN, None),
    # hosts of ServiceEntries
    ("www.example.com", ["240.240.0.1"]),
    ("other.example.com", None),
    ("www.example.com.evil.test", None),
    ("none.example.com", None),  # without an address of its own its host is resolved
    ("a.example.org", ["240.240.0.2"]),
    ("b.a.example.org", ["240.240.0.2"]),
    ("example.org", None),  # a wildcard covers what is below it
    ("a.deep.example.org", ["240.240.0.3"]),
    (f"a.example.org.shop.{DOMAIN}", ["240.240.0.2"]),  # no alias where a wildcard matches
    # who wins where several namespaces have the name
    ("many.example.com", ["240.240.0.5"]),
    ("mine.example.com", ["240.240.0.8"]),
    ("true.example.com", ["240.240.0.10"]),
    # visibility and networks
    (f"secret.bank.{DOMAIN}", None),
    (f"far.shop.{DOMAIN}", []),
    (f"both.shop.{DOMAIN}", ["10.96.0.7"]),
    # headless: healthy endpoints, one address each
    (HEADLESS, ["10.1.0.1", "10.1.0.2"]),
    ("db", ["10.1.0.1", "10.1.0.2"]),
    (EVEN_SO, ["10.1.0.9"]),
    (ONLY_V6, []),
    (NOT_READY, None),  # nothing to say: the cluster's DNS knows whether that is all
    (f"elsewhere.shop.{DOMAIN}", None),
    (f"db-0.db.shop.{DOMAIN}", None),  # pods' own names are the cluster's
    # somebody else's
    ("nowhere", None),
    (f"nowhere.shop.{DOMAIN}", None),
    ("", None),
    ("www.google.com", None),
]


def resolved(name, kind=A_RECORD, asker=SHOP, zone=CLUSTER):
    found = resolve(MESH, zone, asker, name, kind)
    if isinstance(found, Forward):
        return None
    return found.alias, [str(ip) for ip in found.addresses]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0] or "root")
def test_names_as_a_pod_of_the_shop_sees_them(case):
    name, *alias, want = case
    assert resolved(name) == (None if want is None else ("".join(alias), want))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        (f"dual.shop.{DOMAIN}", ["fd96::3"]),
        (f"api.shop.{DOMAIN}", []),  # it exists, so this is not NXDOMAIN
        (f"api.shop.{DOMAIN}.shop.{DOMAIN}", []),
        (HEADLESS, []),  # an IPv4 service stays one, though its pods have IPv6 addresses
        (ONLY_V6, ["fd01::1"]),
        ("www.google.com", None),
    ],
)
def test_ipv6_addresses(name, want):
    assert resolved(name, AAAA_RECORD) == (None if want is None else ("", want))


def test_without_ipv6_there_are_no_ipv6_addresses():
    assert resolved(f"dual.shop.{DOMAIN}", AAAA_RECORD, zone=Zone(ipv6=False)) == ("", [])


def test_the_namespace_of_the_pod_decides():
    bank = Asker("bank")
    assert resolved("api", asker=bank) == ("", ["10.96.0.2"])
    assert resolved("secret", asker=bank) == ("", ["10.96.0.4"])
    assert resolved("db", asker=bank) is None
    assert resolved("api", asker=Asker("nobody")) is None


def test_the_network_of_the_pod_decides():
    assert resolved(f"both.shop.{DOMAIN}", asker=Asker("shop", "east")) == ("", ["10.96.0.6"])
    assert resolved(f"api.shop.{DOMAIN}", asker=Asker("shop", "east")) == ("", [])


def test_a_preferred_namespace_wins_where_nothing_else_decides():
    zone = Zone(preferred_namespace="z")
    assert resolved("many.example.com", zone=zone) == ("", ["240.240.0.6"])
    assert resolved("true.example.com", zone=Zone(preferred_namespace="a"))[1] == ["240.240.0.10"]


@pytest.mark.parametrize("kind", [SRV, 5, 12, 16, 65, 255])
def test_pain_27_what_is_no_address_is_asked_elsewhere(kind):
    for name in (f"api.shop.{DOMAIN}", "www.example.com", f"_http._tcp.api.shop.{DOMAIN}"):
        assert resolved(name, kind) is None


def test_pain_27_a_custom_cluster_domain():
    zone = Zone(domain="corp.internal")
    state = mesh(
        service("api.shop.svc.corp.internal", "10.96.0.1"),
        service("db.shop.svc.corp.internal"),
        workload("db-0", "10.1.0.1", services={"db.shop.svc.corp.internal": {80: 80}}),
    )
    for name in ("api", "api.shop", "db", "api.shop.svc.corp.internal.shop.svc.corp.internal"):
        found = resolve(state, zone, SHOP, name, A_RECORD)
        assert isinstance(found, Answer), name
        assert found.addresses
    # Told a wrong domain, the tunnel still knows services by their full names, and leaves the rest.
    assert resolve(state, Zone(), SHOP, "api.shop.svc.corp.internal", A_RECORD).addresses
    for name in ("api", "db.shop.svc.corp.internal"):
        assert isinstance(resolve(state, Zone(), SHOP, name, A_RECORD), Forward)


LABEL = st.sampled_from(["api", "shop", "bank", "svc", "cluster", "local", "*", "www", "example"])


@given(st.lists(LABEL, max_size=12).map(".".join), st.sampled_from([A_RECORD, AAAA_RECORD]))
def test_any_name_has_an_answer_of_the_right_family(name, kind):
    found = resolve(MESH, Zone(), SHOP, name, kind)
    if isinstance(found, Answer):
        assert all((ip.version == 4) == (kind == A_RECORD) for ip in found.addresses)
        assert not found.alias or name.startswith(found.alias + ".")
        assert MESH.service(found.service) is not None
