"""Resources to bytes and back; and what is refused, with its reason."""

from contextlib import suppress
from ipaddress import ip_address, ip_network

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ambient.api.address import NetworkAddress
from ambient.api.credential import Credential
from ambient.api.pb import authorization_pb2 as apb
from ambient.api.pb import config_pb2 as cpb
from ambient.api.pb import workload_pb2 as wpb
from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.service import AppProtocol, NamespacedHostname, Port, Visibility
from ambient.api.workload import TunnelProtocol, Workload, WorkloadType
from ambient.xds.core import wire
from ambient.xds.core.wire import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    CONFIG_TYPE,
    SECRET_TYPE,
    WORKLOAD_TYPE,
    BadResource,
    parts,
)
from tests.unit.ambient.xds.core import strategies

TYPES = [ADDRESS_TYPE, WORKLOAD_TYPE, AUTHORIZATION_TYPE, CONFIG_TYPE, SECRET_TYPE]


@settings(max_examples=60)
@given(strategies.WORKLOADS | strategies.SERVICES | strategies.AUTHORIZATIONS | strategies.CONFIGS)
def test_every_value_survives_the_wire(value):
    url, raw = wire.encode(value, labels=True)
    assert wire.decode(url, raw) == value
    assert wire.encode(wire.decode(url, raw), labels=True) == (url, raw)


@settings(max_examples=20)
@given(strategies.WORKLOADS)
def test_labels_are_told_to_waypoints_only(value):
    bare = wire.decode(*wire.encode(value))
    assert bare.labels == {}
    assert wire.decode(*wire.encode(value, labels=True)).labels == value.labels


@settings(max_examples=20)
@given(strategies.WORKLOADS)
def test_a_bare_workload_has_its_own_type(value):
    url, raw = wire.encode(value, labels=True, bare_workload=True)
    assert url == WORKLOAD_TYPE
    assert wire.decode(url, raw) == value


@settings(max_examples=300)
@given(st.sampled_from(TYPES), st.binary(max_size=300))
@example(ADDRESS_TYPE, b"")
def test_noise_is_refused_or_read_but_never_breaks_us(url, raw):
    with suppress(BadResource):
        wire.decode(url, raw)


@settings(max_examples=200)
@given(
    strategies.WORKLOADS | strategies.SERVICES | strategies.AUTHORIZATIONS | strategies.CONFIGS,
    st.data(),
)
def test_damaged_resources_are_refused_or_read_but_never_break_us(value, data):
    url, raw = wire.encode(value, labels=True)
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadResource):
        wire.decode(url, bytes(damaged))
    wire.refusing(bytes(damaged))


def workload(**fields) -> tuple[str, bytes]:
    return ADDRESS_TYPE, wpb.Address(
        workload=wpb.Workload(**{"uid": "u", **fields})
    ).SerializeToString()


def service(**fields) -> tuple[str, bytes]:
    full = {"namespace": "ns", "hostname": "a.ns", **fields}
    return ADDRESS_TYPE, wpb.Address(service=wpb.Service(**full)).SerializeToString()


def policy(*matches: apb.Match, **fields) -> tuple[str, bytes]:
    groups = [apb.Group(rules=[apb.Rules(matches=matches)])] if matches else []
    full = {"name": "p", "namespace": "ns", "groups": groups, **fields}
    return AUTHORIZATION_TYPE, apb.Authorization(**full).SerializeToString()


def config(json: bytes) -> tuple[str, bytes]:
    message = cpb.Object(api_version="v1", kind="K", name="n", json=json)
    return CONFIG_TYPE, message.SerializeToString()


@pytest.mark.parametrize(
    ("resource", "field"),
    [
        ((ADDRESS_TYPE, b""), "type"),
        ((ADDRESS_TYPE, b"\xff\xff"), "Address"),
        (("type.googleapis.com/x", b""), "type_url"),
        (workload(uid=""), "uid"),
        (workload(uid="u" * 3000), "uid"),
        (workload(addresses=[b"123"]), "addresses[0]"),
        (workload(addresses=[b"1234"] * 10_001), "addresses"),
        (workload(tunnel_protocol=2), "tunnel_protocol"),
        (workload(tunnel_protocol=9), "tunnel_protocol"),
        (workload(status=9), "status"),
        (workload(network_mode=9), "network_mode"),
        (workload(waypoint=wpb.GatewayAddress()), "waypoint"),
        (
            workload(
                waypoint=wpb.GatewayAddress(
                    hostname=wpb.NamespacedHostname(namespace="a", hostname="b"),
                    hbone_mtls_port=70_000,
                )
            ),
            "waypoint.hbone_mtls_port",
        ),
        (workload(services={"no-slash": wpb.PortList()}), "services"),
        (
            workload(services={"a/b": wpb.PortList(ports=[wpb.Port(service_port=0)])}),
            "services[a/b].ports[0].service_port",
        ),
        (
            workload(application_tunnel=wpb.ApplicationTunnel(protocol=7)),
            "application_tunnel.protocol",
        ),
        (workload(extensions=[wpb.Extension(name="ambient.labels")]), "ambient.labels"),
        (service(namespace=""), "hostname"),
        (service(hostname=""), "hostname"),
        (service(addresses=[wpb.NetworkAddress(address=b"1234", length=33)]), "addresses[0]"),
        (service(addresses=[wpb.NetworkAddress(address=b"12345")]), "addresses[0]"),
        (service(ports=[wpb.Port(service_port=65_536)]), "ports[0].service_port"),
        (service(load_balancing=wpb.LoadBalancing(mode=9)), "load_balancing.mode"),
        (
            service(load_balancing=wpb.LoadBalancing(routing_preference=[9])),
            "routing_preference[0]",
        ),
        (policy(name=""), "name"),
        (policy(scope=9), "scope"),
        (policy(action=9), "action"),
        (
            policy(apb.Match(principals=[apb.StringMatch()])),
            "groups[0].rules[0].matches[0].principals[0]",
        ),
        (
            policy(apb.Match(source_ips=[apb.Address(address=b"1234", length=40)])),
            "groups[0].rules[0].matches[0].source_ips[0]",
        ),
        (
            policy(apb.Match(not_destination_ports=[65_536 + 80])),
            "groups[0].rules[0].matches[0].not_destination_ports[0]",
        ),
        (
            policy(apb.Match(service_accounts=[apb.ServiceAccountMatch(namespace="x")])),
            "groups[0].rules[0].matches[0].service_accounts[0].serviceAccount",
        ),
        (config(b"[]"), "json"),
        (config(b"{"), "json"),
        (config(b'{"a":' * 5000), "json"),
        ((CONFIG_TYPE, b"x" * (parts.MAX_RESOURCE_BYTES + 1)), "resource"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_whole_with_the_name_of_the_field(resource, field):
    with pytest.raises(BadResource) as caught:
        wire.decode(*resource)
    assert caught.value.field == field


def test_descriptive_numbers_of_the_future_fall_back():
    url, raw = service(ports=[wpb.Port(service_port=80, app_protocol=99)], visibility=99)
    value = wire.decode(url, raw)
    assert value.ports[0].app_protocol is AppProtocol.UNKNOWN
    assert value.visibility is Visibility.PUBLIC


def test_absent_fields_have_upstreams_defaults():
    value = wire.decode(*workload(name="n", namespace="ns"))
    assert (value.trust_domain, value.service_account) == ("cluster.local", "default")
    assert (value.cluster_id, value.capacity) == ("Kubernetes", 1)


def test_one_host_as_a_range_is_an_address():
    host = wpb.NetworkAddress(address=b"\x0a\x00\x00\x01", length=32)
    span = wpb.NetworkAddress(address=b"\x0a\x01\x00\x00", length=16)
    value = wire.decode(*service(addresses=[host, span]))
    assert value.addresses == (NetworkAddress("", ip_address("10.0.0.1")),)
    assert [r.cidr for r in value.ranges] == [ip_network("10.1.0.0/16")]


def test_mapped_ranges_mean_ipv4():
    mapped = ip_address("::ffff:10.0.0.0").packed
    value = wire.decode(*policy(apb.Match(source_ips=[apb.Address(address=mapped, length=96 + 8)])))
    assert value.groups[0][0][0].source_ips == (ip_network("10.0.0.0/8"),)


def test_names_on_the_wire():
    assert wire.resource_name(wire.decode(*workload())) == "u"
    assert wire.resource_name(wire.decode(*service())) == "ns/a.ns"
    assert wire.resource_name(wire.decode(*policy())) == "ns/p"
    assert wire.resource_name(wire.decode(*config(b"{}"))) == "K//n"
    assert wire.decode(*service()).key == NamespacedHostname("ns", "a.ns")


def test_an_unreadable_policy_has_a_stand_in_that_denies_what_it_selects():
    _, raw = policy(apb.Match(principals=[apb.StringMatch()]), scope=1, action=0)
    assert wire.refusing(raw) == Authorization(
        name="p", namespace="ns", scope=Scope.NAMESPACE, action=Action.DENY, groups=((),)
    )
    assert wire.refusing(policy(dry_run=True)[1]) is None
    assert wire.refusing(policy(scope=9)[1]) is None
    assert wire.refusing(b"\xff") is None


def test_golden_bytes_of_a_workload():
    """Field by field from the numbers of istio.workload, not from our own encoder."""
    fields = (
        b"\x0a\x01n"  # name = 1
        b"\x12\x02ns"  # namespace = 2
        b"\x1a\x04\x0a\x00\x00\x01"  # addresses = 3
        b"\x28\x01"  # tunnel_protocol = 5: HBONE
        b"\x3a\x02sa"  # service_account = 7
        b"\x82\x01\x04ns/p"  # authorization_policies = 16
        b"\xa2\x01\x01u"  # uid = 20
        b"\xb2\x01\x0d\x0a\x03a/b\x12\x06\x0a\x04\x08\x50\x10\x51"  # services = 22
        b"\xda\x01\x02\x08\x05"  # capacity = 27
    )
    value = wire.decode(ADDRESS_TYPE, b"\x0a" + bytes([len(fields)]) + fields)
    assert value == Workload(
        uid="u",
        name="n",
        namespace="ns",
        addresses=(ip_address("10.0.0.1"),),
        tunnel_protocol=TunnelProtocol.HBONE,
        service_account="sa",
        authorization_policies=("ns/p",),
        cluster_id="Kubernetes",
        services={NamespacedHostname("a", "b"): (Port(80, 81),)},
        workload_type=WorkloadType.DEPLOYMENT,  # 0, so it is not on the wire
        capacity=5,
    )


def test_golden_bytes_of_a_policy():
    """Rules.matches is number 2, not 1: the one surprise of istio.security."""
    match = b"\x1a\x03\x0a\x01x\x22\x02\x22\x00"  # principals exact x, not_principals presence
    rules = b"\x12" + bytes([len(match)]) + match
    group = b"\x0a" + bytes([len(rules)]) + rules
    raw = b"\x0a\x01p\x12\x02ns\x18\x02\x20\x01\x2a" + bytes([len(group)]) + group + b"\x30\x01"
    expected = Match(
        principals=(StringMatch(MatchKind.EXACT, "x"),),
        not_principals=(StringMatch(MatchKind.PRESENCE),),
    )
    assert wire.decode(AUTHORIZATION_TYPE, raw) == Authorization(
        name="p",
        namespace="ns",
        scope=Scope.WORKLOAD_SELECTOR,
        action=Action.DENY,
        groups=(((expected,),),),
        dry_run=True,
    )


def test_secrets_are_envoys():
    """Field by field as Envoy's own messages have them."""
    chain = common_pb2.TlsCertificate(
        certificate_chain=base_pb2.DataSource(inline_bytes=b"chain"),
        private_key=base_pb2.DataSource(inline_bytes=b"key"),
    )
    context = common_pb2.CertificateValidationContext(
        trusted_ca=base_pb2.DataSource(inline_bytes=b"ca"),
        crl=base_pb2.DataSource(inline_bytes=b"crl"),
    )
    for name, said, found in (
        ("a", {"tls_certificate": chain}, Credential("a", b"chain", b"key")),
        ("b", {"validation_context": context}, Credential("b", ca_pem=b"ca", crl_pem=b"crl")),
        ("c", {}, Credential("c")),
    ):
        message = secret_pb2.Secret(name=name, **said)
        assert wire.decode(SECRET_TYPE, message.SerializeToString()) == found
        assert secret_pb2.Secret.FromString(wire.encode(found)[1]) == message
    assert "key" not in repr(Credential("a", b"chain", b"key"))
    keyless = secret_pb2.Secret(name="a", tls_certificate={"private_key": {"inline_bytes": b"k"}})
    assert wire.decode(SECRET_TYPE, keyless.SerializeToString()).empty
