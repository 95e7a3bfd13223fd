"""``why`` answers for hypothetical connections with the proxies' own decisions."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec
import pytest

from ambient.api.address import NetworkAddress
from ambient.api.errors import UsageError
from ambient.api.service import GatewayAddress, NamespacedHostname
from ambient.api.type_urls import ADDRESS_TYPE
from ambient.api.workload import Workload
from ambientctl.why.parties import read_source, read_target
from ambientctl.why.snapshot import index_mesh
from ambientctl.why.walk import Http, Walk, walk
from tests.unit.ambientctl.why.cluster import (
    SHOP,
    Manifest,
    allow,
    by_kind,
    deny,
    no_delete,
    pod,
    service,
    strict,
    waypoint,
)

CLIENT = "cluster.local/ns/shop/sa/client-sa"


def ask(source: str, target: str, *more: Manifest, http: Http | None = None) -> Walk:
    mesh = index_mesh(by_kind([*SHOP, *more]))
    caller = read_source(mesh, source, "default")
    return walk(mesh, caller, read_target(mesh, target, "default"), http or Http())


def test_two_pods_in_the_mesh_speak_hbone_and_nothing_forbids_it() -> None:
    answer = ask("shop/client", "details.shop:9080")

    assert answer.allowed
    assert [hop.at for hop in answer.hops] == [
        "source",
        "source tunnel",
        "tunnel of shop/details-1",
    ]
    assert "spiffe://cluster.local/ns/shop/sa/client-sa" in answer.hops[0].what
    assert answer.hops[1].what.startswith("HBONE to 10.244.2.2:15008")
    assert answer.hops[2].what == "to the application at 10.244.2.2:9080: no policy applies"


def test_a_deny_policy_is_named_with_its_rule_and_the_way_out() -> None:
    answer = ask("shop/client", "details.shop", deny("shop/no-client", principal=CLIENT))

    assert not answer.allowed
    assert answer.decided_by == "AuthorizationPolicy shop/no-client"
    assert answer.change == "narrow or remove rule 1 of AuthorizationPolicy shop/no-client"


def test_the_same_policy_lets_another_account_pass() -> None:
    policy = deny("shop/no-client", principal=CLIENT)

    assert ask("shop/reviews", "details.shop", policy).allowed


def test_the_nearest_allow_rule_is_named_with_the_field_that_missed() -> None:
    policy = allow("shop/only-reviews", principal="cluster.local/ns/shop/sa/reviews-sa")

    answer = ask("shop/client", "details.shop", policy)

    assert not answer.allowed
    assert "shop/only-reviews" in answer.hops[-1].what
    assert "rule 1 of AuthorizationPolicy shop/only-reviews" in answer.change
    assert CLIENT in answer.change


def test_an_outsider_is_let_in_by_default_and_refused_under_strict() -> None:
    assert ask("default/outside", "details.shop").allowed

    answer = ask("default/outside", "details.shop", strict("shop"))

    assert not answer.allowed
    assert answer.decided_by == "PeerAuthentication shop/strict"
    assert "istio_converted_static_strict" in answer.hops[-1].what  # as the tunnel logs it
    assert "istio.io/dataplane-mode=ambient" in answer.change


def test_a_destination_outside_the_mesh_is_reached_in_plaintext_unchecked() -> None:
    answer = ask(
        "shop/client",
        "old.shop",
        pod("shop/old", "10.244.2.7", mesh=False),
        service("shop/old", "10.96.0.30"),
    )

    assert answer.allowed
    assert answer.hops[-1].what.endswith("is outside the mesh: nobody checks")


def test_a_service_without_ready_endpoints_is_said_to_have_none() -> None:
    answer = ask("shop/client", "empty.shop", service("shop/empty", "10.96.0.40"))

    assert not answer.allowed
    assert "no healthy upstream" in answer.hops[-1].what


@pytest.mark.parametrize(
    ("source", "target", "complaint"),
    [
        ("shop/nobody", "details.shop", "no pod, app or service account 'nobody'"),
        ("shop/client", "details.shop:81", "has no port 81"),
        ("shop/client", "nowhere.shop:80", "no pod, app or service account 'nowhere' in"),
        ("shop/client", "details.shop:http", "'http' is not a port"),
        ("spiffe://bad", "details.shop", "'spiffe://bad' is not spiffe://"),
    ],
)
def test_a_party_that_cannot_be_found_is_named(source: str, target: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        ask(source, target)


def test_parties_may_be_written_with_their_kind() -> None:
    namespaced = ask("shop/client", "details.shop")

    assert ask("pod/shop/client", "svc/details.shop:9080").hops == namespaced.hops


def test_an_identity_without_pods_is_taken_as_one_in_the_mesh() -> None:
    spiffe = "spiffe://cluster.local/ns/shop/sa/batch"
    policy = deny("shop/no-batch", principal="cluster.local/ns/shop/sa/batch")

    answer = ask(spiffe, "details.shop", policy)

    assert not answer.allowed
    assert answer.decided_by == "AuthorizationPolicy shop/no-batch"
    assert "no pod has it" in answer.source


def through_waypoint(http: Http, *more: Manifest) -> Walk:
    objects = [one for one in SHOP if one["metadata"]["name"] != "reviews"]
    objects += [pod("shop/reviews", "10.244.2.3"), *waypoint("shop", "10.96.0.50")]
    objects.append(service("shop/reviews", "10.96.0.21", **{"istio.io/use-waypoint": "waypoint"}))
    mesh = index_mesh(by_kind([*objects, no_delete("shop", "reviews"), *more]))
    caller = read_source(mesh, "shop/client", "default")
    return walk(mesh, caller, read_target(mesh, "reviews.shop", "default"), http)


def test_a_request_goes_through_the_waypoint_and_arrives_with_its_identity() -> None:
    answer = through_waypoint(Http("GET", "/reviews/0"))

    assert answer.allowed
    places = [hop.at for hop in answer.hops]
    assert places[:2] == ["source", "source tunnel"]
    assert "waypoint shop/waypoint" in places
    assert any("sa/waypoint-sa" in hop.what for hop in answer.hops)
    assert places[-1] == "tunnel of shop/reviews-1"


def test_an_l7_rule_refuses_one_method_and_is_named() -> None:
    answer = through_waypoint(Http("DELETE", "/reviews/0"))

    assert not answer.allowed
    assert answer.decided_by == "AuthorizationPolicy shop/no-delete"
    assert "403" in answer.hops[-1].what


def test_both_shares_of_a_split_are_told() -> None:
    destination = {"host": "reviews", "subset": "v1"}
    rule = {
        "kind": "DestinationRule",
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]},
    }
    route = {
        "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": destination}]}]},
    }

    answer = through_waypoint(Http("GET", "/"), rule, route)

    assert answer.allowed
    told = next(hop for hop in answer.hops if "subset v1" in hop.what)
    assert told.what.startswith("100% to reviews.shop.svc.cluster.local subset v1: reviews-1")
    assert told.by.startswith("VirtualService/shop/reviews")


FAR = NamespacedHostname("shop", "details.shop.svc.cluster.local")


def ask_far(*, sans: tuple[str, ...] = ()) -> Walk:
    """``details`` has its only endpoint in another network, behind a gateway."""
    mesh = index_mesh(by_kind(SHOP))
    known = mesh.state.service(FAR)
    assert known is not None
    at = NetworkAddress("far", ip_address("192.0.2.9"))
    gateway = Workload(
        uid="gw", name="gw", namespace="istio-system", network="far", addresses=(at.ip,)
    )
    far = Workload(
        uid="far",
        name="far",
        namespace="shop",
        network="far",
        network_gateway=GatewayAddress(at, 15008),
        services={FAR: ()},
    )
    gone = [one.uid for one in mesh.workloads if FAR in one.services]
    service_now = msgspec.structs.replace(known, subject_alt_names=sans)
    changed = {"a": service_now, "b": gateway, "c": far}
    mesh.state.apply(ADDRESS_TYPE, changed, gone)
    caller = read_source(mesh, "shop/client", "default")
    return walk(mesh, caller, read_target(mesh, "details.shop:9080", "default"), Http())


def test_another_network_is_entered_through_its_gateway() -> None:
    answer = ask_far(sans=("spiffe://cluster.local/ns/shop/sa/details-sa",))

    assert answer.allowed
    assert answer.hops[1].what.startswith(
        f"HBONE to 192.0.2.9:15008, and inside it HBONE to {FAR[1]}"
    )
    assert answer.hops[-1].what == "in another network: its own mesh decides there"


def test_nobody_is_trusted_behind_a_gateway_without_a_name_to_expect() -> None:
    answer = ask_far()

    assert not answer.allowed
    assert f"service {FAR} names no identity" in answer.hops[-1].what
    assert "subject alternative names" in answer.change


def network_policy(name: str, app: str, port: int) -> Manifest:
    where, _, short = name.partition("/")
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": short, "namespace": where},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": port}]}],
        },
    }


def test_pain_3_a_network_policy_that_closes_15008_is_the_answer() -> None:
    answer = ask("shop/client", "details.shop", network_policy("shop/only-9080", "details", 9080))
    assert not answer.allowed
    assert answer.decided_by == "NetworkPolicy shop/only-9080"
    assert "port: 15008} to the ports of spec.ingress[0]" in answer.change
    assert [hop.at for hop in answer.hops if not hop.passes] == ["network"]
    assert ask("shop/client", "details.shop", network_policy("shop/n", "details", 15008)).allowed
    # From outside the mesh it is the application's own port that counts.
    plain = ask("default/outside", "details.shop", network_policy("shop/n", "details", 15008))
    assert plain.decided_by == "NetworkPolicy shop/n"
    assert "port 9080" in plain.hops[-1].what


def test_pain_3_the_way_behind_a_waypoint_is_looked_at_too() -> None:
    bound = service("shop/details", "10.96.0.20", **{"istio.io/use-waypoint": "waypoint"})
    objects = [one for one in SHOP if one["metadata"]["name"] != "details" or one["kind"] == "Pod"]
    objects += [bound, *waypoint("shop", "10.96.0.50")]
    for app, stopped_at in (("waypoint", 2), ("details", 4)):
        mesh = index_mesh(by_kind([*objects, network_policy("shop/n", app, 9080)]))
        caller = read_source(mesh, "shop/client", "default")
        answer = walk(mesh, caller, read_target(mesh, "details.shop", "default"), Http())
        assert answer.decided_by == "NetworkPolicy shop/n"
        assert len(answer.hops) == stopped_at + 1, answer.hops


def test_who_is_not_in_the_mesh_is_told_why_and_how_to_join() -> None:
    answer = ask("default/outside", "details.shop")
    (note,) = answer.notes
    assert note.text.endswith("neither it nor its namespace has the label "
                              "istio.io/dataplane-mode=ambient")  # fmt: skip
    assert note.remedy == "kubectl label namespace default istio.io/dataplane-mode=ambient"
    late = pod("shop/late", "10.244.1.7", mesh=False)
    (note,) = ask("shop/late", "details.shop", late).notes
    assert note.text == "shop/late-1 has the label, but node-1 has not captured it"
    assert "k8s-app=istio-cni-node" in note.remedy


def test_a_waypoint_that_is_not_there_is_told() -> None:
    asking = service("shop/reviews", "10.96.0.21", **{"istio.io/use-waypoint": "wypoint"})
    mesh = index_mesh(by_kind([*SHOP[:-1], asking]))
    caller = read_source(mesh, "shop/client", "default")
    answer = walk(mesh, caller, read_target(mesh, "reviews.shop", "default"), Http())
    assert answer.allowed
    (note,) = answer.notes
    assert "asks for waypoint shop/wypoint, and traffic goes past it" in note.text
    assert note.remedy.startswith("ambientctl waypoint apply -n shop --name wypoint")


def test_a_waypoint_that_a_service_entry_asks_for_in_vain_is_told() -> None:
    outside: Manifest = {
        "kind": "ServiceEntry",
        "metadata": {
            "name": "books",
            "namespace": "shop",
            "labels": {"istio.io/use-waypoint": "gone"},
        },
        "spec": {
            "hosts": ["books.example.com"],
            "addresses": ["240.240.0.9"],
            "location": "MESH_EXTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": "192.0.2.7"}],
        },
    }

    answer = ask("shop/client", "books.example.com:80", outside)

    assert answer.allowed
    assert "ServiceEntry shop/books asks for waypoint shop/gone" in answer.notes[0].text
    assert "a waypoint in front of its service" in answer.refuse
