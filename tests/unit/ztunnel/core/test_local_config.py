"""The mesh state in a file: what is understood, and what is said about everything else."""

import json
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambient.api.policy import Action, Authorization, MatchKind, Scope, StringMatch
from ambient.api.service import (
    AddressRange,
    HealthPolicy,
    IPFamilies,
    LoadBalancing,
    Mode,
    Port,
    Visibility,
    WeightedWaypoint,
)
from ambient.api.service import Scope as RoutingScope
from ambient.api.workload import (
    ApplicationTunnel,
    ApplicationTunnelProtocol,
    Locality,
    NetworkMode,
    WorkloadStatus,
    WorkloadType,
)
from tests.unit.ztunnel.core.mesh_builder import service, waypoint, workload
from ztunnel.core import dump
from ztunnel.core.local_config import LocalConfigError, read

UPSTREAMS = """
workloads:
- uid: cluster1//v1/Pod/default/local
  name: local
  namespace: default
  serviceAccount: local
  workloadIps: [127.0.0.1]
  protocol: HBONE
  node: local
  network: ""
  services:
    "default/example.com":
      80: 8080
- uid: cluster1//v1/Pod/default/local-tcp
  name: local-tcp
  namespace: default
  workloadIps: ["127.0.0.2"]
  protocol: TCP
  waypoint:
    destination: /127.0.0.10
    hboneMtlsPort: 15009
services:
- name: local
  namespace: default
  hostname: example.com
  vips:
  - /127.10.0.1
  ports:
    "80": 8080
policies:
- name: no-9999
  namespace: default
  scope: Namespace
  action: Deny
  dryRun: false
  rules:
  - - - notDestinationPorts: [9999]
      - principals:
        - Exact: cluster.local/ns/default/sa/bad
        - Presence: {}
"""


def test_a_file_like_upstreams():
    found = read(UPSTREAMS, "mesh.yaml")
    one = found.addresses["cluster1//v1/Pod/default/local"]
    assert str(one.identity) == "spiffe://cluster.local/ns/default/sa/local"
    assert one.services == {found.addresses["default/example.com"].key: (Port(80, 8080),)}
    two = found.addresses["cluster1//v1/Pod/default/local-tcp"]
    assert two.waypoint == waypoint("127.0.0.10", 15009)
    assert str(two.identity) == "spiffe://cluster.local/ns/default/sa/default"
    policy = found.policies["default/no-9999"]
    assert (policy.action, policy.scope) == (Action.DENY, Scope.NAMESPACE)
    (((first, second),),) = policy.groups
    assert first.not_destination_ports == (9999,)
    assert second.principals == (
        StringMatch(MatchKind.EXACT, "cluster.local/ns/default/sa/bad"),
        StringMatch(MatchKind.PRESENCE),
    )


FULL = workload(
    *("full", "10.0.0.1", "fd00::1"),
    network="west",
    hostname="full.example",
    waypoint=waypoint("shop/wp.example"),
    network_gateway=waypoint("10.0.0.9", 15009, "west"),
    node="n1",
    canonical_name="full",
    canonical_revision="v1",
    workload_type=WorkloadType.DEPLOYMENT,
    workload_name="full",
    native_tunnel=True,
    authorization_policies=("shop/p",),
    status=WorkloadStatus.UNHEALTHY,
    cluster_id="c1",
    application_tunnel=ApplicationTunnel(ApplicationTunnelProtocol.PROXY, 15088),
    locality=Locality("r", "z", "s"),
    network_mode=NetworkMode.HOST_NETWORK,
    capacity=3,
)
SERVICE = service(
    *("s.example", "10.96.0.1"),
    ranges=(AddressRange("west", ip_network("10.50.0.0/16")),),
    subject_alt_names=("spiffe://cluster.local/ns/shop/sa/s",),
    waypoint=waypoint("10.0.0.7"),
    weighted_waypoints=(WeightedWaypoint(waypoint("shop/wp.example"), 3),),
    load_balancing=LoadBalancing(
        (RoutingScope.NETWORK, RoutingScope.ZONE), Mode.FAILOVER, HealthPolicy.ALLOW_ALL
    ),
    ip_families=IPFamilies.IPV6_ONLY,
    canonical=True,
    visibility=Visibility.NAMESPACE,
)


def as_yaml(**lists):
    return json.dumps(lists)  # which is YAML, too


def test_what_the_dump_shows_can_be_read_back():
    entry = dump.workload(FULL)
    assert "services" not in entry
    shown = dump.service(SERVICE, [])
    del shown["endpoints"]
    found = read(as_yaml(workloads=[entry], services=[shown]), "dump")
    assert found.addresses == {FULL.uid: FULL, str(SERVICE.key): SERVICE}


def test_every_policy_of_the_dump_can_be_read_back():
    before = read(UPSTREAMS, "x").policies["default/no-9999"]
    again = read(as_yaml(policies=[dump.policy(before)]), "dump")
    assert again.policies["default/no-9999"] == before
    empty = Authorization(name="n", namespace="shop", scope=Scope.GLOBAL, action=Action.ALLOW)
    assert read(as_yaml(policies=[dump.policy(empty)]), "dump").policies["shop/n"] == empty


def test_an_empty_file_is_an_empty_mesh():
    assert read("", "x") == ({}, {})
    assert read("workloads:\n", "x") == ({}, {})


WORKLOAD = {"uid": "u", "name": "web", "namespace": "shop"}
POLICY = {"name": "p", "namespace": "shop", "scope": "Namespace", "action": "Deny"}


def rules(**match):
    return {"policies": [POLICY | {"rules": [[[match]]]}]}


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ({"workload": []}, "unknown field `workload`"),
        ({"workloads": 1}, "Expected `array | null`, got `int` - at `$.workloads`"),
        (
            {"workloads": [WORKLOAD | {"ip": "1"}]},
            "workload 1 shop/web: ip: Object contains unknown",
        ),
        ({"workloads": [1]}, "workload 1: (the entry itself): Expected `object`"),
        (
            {"workloads": [WORKLOAD, {"name": "x"}]},
            "workload 2 /x: uid: Object missing required",
        ),
        (
            {"workloads": [WORKLOAD | {"workloadIps": ["10.0.0.300"]}]},
            "workload 1 shop/web: workloadIps: '10.0.0.300' is not an address",
        ),
        (
            {"workloads": [WORKLOAD | {"protocol": "HTTP"}]},
            "workload 1 shop/web: protocol: Invalid enum value 'HTTP'",
        ),
        (
            {"workloads": [WORKLOAD | {"services": {"shop/s": {"http": 80}}}]},
            "workload 1 shop/web: services[...]: Expected `int`",
        ),
        ({"workloads": [WORKLOAD | {"services": {"s": {}}}]}, "services: 's' is not namespace/"),
        ({"workloads": [WORKLOAD | {"services": {"a/b": {"80": 70000}}}]}, "70000 is no port"),
        ({"workloads": [WORKLOAD | {"status": "Sick"}]}, "status: 'Sick' is none of healthy"),
        (
            {"workloads": [WORKLOAD | {"waypoint": {"destination": "wp"}}]},
            "waypoint.destination: 'wp' is not namespace/hostname",
        ),
        ({"workloads": [WORKLOAD, WORKLOAD]}, "uid u is there twice"),
        (
            {
                "services": [
                    {"name": "s", "namespace": "a", "hostname": "s.a", "vips": ["10.0.0.1"]}
                ]
            },
            "service 1 a/s: vips: '10.0.0.1' is not network/address",
        ),
        (rules(sourceIps=["10.0.0.0/33"]), "policy 1 shop/p: rules.sourceIps: '10.0.0.0/33'"),
        (rules(principals=[{"Regex": "x"}]), "rules.principals: 'Regex' is none of exact"),
        (rules(principals=[{}]), "rules.principals: {} is not one of Exact"),
        (rules(principals=[{"Exact": 3}]), "is not one of Exact"),
        (rules(destinationPorts=[65536]), "65536 is no port"),
        (rules(ports=[1]), "policy 1 shop/p: rules[0][0][0].ports: Object contains"),
    ],
)
def test_a_mistake_is_told_with_file_entry_and_field(lists, told):
    with pytest.raises(LocalConfigError) as refused:
        read(as_yaml(**lists), "mesh.yaml")
    assert str(refused.value).startswith("mesh.yaml: ")
    assert told in str(refused.value)


def test_what_is_no_yaml_is_told_in_one_line():
    with pytest.raises(LocalConfigError, match=r"mesh.yaml is no YAML: .*line 2") as refused:
        read("workloads:\n  - {", "mesh.yaml")
    assert "\n" not in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*WORKLOAD, "waypoint", "services", "workloadIps"]), JSON))
def test_any_other_document_is_refused_in_order(entry):
    with suppress(LocalConfigError):
        read(as_yaml(workloads=[WORKLOAD | entry]), "x")


def test_the_example_of_the_documentation_is_right():
    page = (Path(__file__).parents[4] / "docs" / "ztunnel.md").read_text()
    text = page.partition("```yaml\n")[2].partition("```")[0]
    found = read(text, "docs/ztunnel.md")
    assert len(found.addresses) == 2
    assert len(found.policies) == 1
