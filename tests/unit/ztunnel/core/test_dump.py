"""The state as istioctl reads it."""

import json
from ipaddress import ip_network

from ambient.api.errors import MeshError
from ambient.api.policy import (
    Action,
    Authorization,
    Match,
    MatchKind,
    Scope,
    ServiceAccountMatch,
    StringMatch,
)
from ambient.api.service import LoadBalancing, Mode
from ambient.api.service import Scope as Preference
from ambient.api.spiffe import Identity
from ambient.identity.core.csr import new_key_and_csr
from ambient.identity.core.svid import parse_svid
from tests.fakes.ca_server import Authority
from tests.unit.ztunnel.core.mesh_builder import mesh, service, waypoint, workload
from ztunnel.core import dump
from ztunnel.settings import Settings

WEB = Identity("cluster.local", "shop", "web")


def test_a_workload_has_what_istioctl_always_expects():
    shown = dump.workload(workload("web", "10.0.0.1"))
    assert shown["workloadIps"] == ["10.0.0.1"]
    assert (shown["protocol"], shown["networkMode"], shown["status"]) == (
        *("HBONE", "Standard"),
        "Healthy",
    )
    assert shown["capacity"] == 1
    assert "waypoint" not in shown
    plain = dump.workload(workload("old", hbone=False, waypoint=waypoint("shop/wp.example")))
    assert plain["protocol"] == "TCP"
    assert plain["waypoint"] == {"destination": "shop/wp.example", "hboneMtlsPort": 15008}


def test_a_service_lists_its_endpoints():
    balancing = LoadBalancing((Preference.NODE,), Mode.FAILOVER)
    one = service("api.example", "10.96.0.1", load_balancing=balancing)
    pod = workload("api", "10.0.0.2", services={"api.example": {80: 8080}})
    shown = dump.service(one, mesh(one, pod).endpoints(one))
    assert shown["vips"] == ["/10.96.0.1"]
    assert shown["ports"] == {"80": 8080}
    assert shown["endpoints"][pod.uid] == {
        "workloadUid": pod.uid,
        "port": {"80": 8080},
        "status": "Healthy",
    }
    assert shown["loadBalancer"] == {
        "routingPreferences": ["Node"],
        "mode": "Failover",
        "healthPolicy": "OnlyHealthy",
    }


def test_a_policy_is_rules_of_clauses_of_matches():
    match = Match(
        not_principals=(StringMatch(MatchKind.PRESENCE), StringMatch(MatchKind.PREFIX, "a")),
        source_ips=(ip_network("10.0.0.0/8"),),
        destination_ports=(80,),
        service_accounts=(ServiceAccountMatch("shop", "web"),),
    )
    policy = Authorization(
        name="p",
        namespace="shop",
        scope=Scope.WORKLOAD_SELECTOR,
        action=Action.DENY,
        groups=(((match,),),),
    )
    assert dump.policy(policy) == {
        "name": "p",
        "namespace": "shop",
        "scope": "WorkloadSelector",
        "action": "Deny",
        "dryRun": False,
        "rules": [
            [
                [
                    {
                        "notPrincipals": [{"Presence": []}, {"Prefix": "a"}],
                        "sourceIps": ["10.0.0.0/8"],
                        "destinationPorts": [80],
                        "serviceAccounts": [{"namespace": "shop", "serviceAccount": "web"}],
                    }
                ]
            ]
        ],
    }


def test_a_certificate_says_whether_it_is_there():
    key, csr = new_key_and_csr(WEB)
    svid = parse_svid(WEB, key, Authority().sign_csr(csr, WEB))
    shown = dump.certificate(WEB, svid)
    assert shown["state"] == "Available"
    assert shown["certChain"][0]["serialNumber"].isdigit()
    assert shown["certChain"][0]["expirationTime"].endswith("Z")
    assert "PRIVATE" not in json.dumps(shown)
    assert dump.certificate(WEB, None)["state"] == "Initializing"
    assert dump.certificate(WEB, MeshError("no"))["state"] == "Unavailable: no"


def test_settings_are_in_camel_case_with_times_as_upstream_writes_them():
    settings = Settings(xds_headers={"authorization": "s3cr3t"}, pool_unused_release_timeout_s=1.5)
    shown = dump.config(settings)
    assert shown["poolUnusedReleaseTimeout"] == {"secs": 1, "nanos": 500_000_000}
    assert shown["xdsAddress"].startswith("https://")
    assert "s3cr3t" not in json.dumps(shown)
