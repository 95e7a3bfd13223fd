"""Incremental xDS as a conversation: what the server says, what we answer and remember."""

from ipaddress import ip_address

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb

from ambient.api.pb import authorization_pb2 as apb
from ambient.api.policy import Action, Authorization, Scope
from ambient.api.workload import Workload
from ambient.xds.core.delta_client import DeltaClient, NodeInfo
from ambient.xds.core.wire import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    WORKLOAD_TYPE,
    BadResource,
    encode,
    resource_name,
)

NODE = NodeInfo(
    kind="ztunnel", ip="10.0.0.9", name="z", namespace="istio-system", metadata={"CLUSTER_ID": "K"}
)
POD = Workload(
    uid="K//Pod/a/b",
    name="b",
    namespace="a",
    addresses=(ip_address("10.0.0.1"),),
    cluster_id="K",
)
ALLOW = Authorization(name="p", namespace="a", scope=Scope.NAMESPACE, action=Action.ALLOW)


@pytest.fixture
def client() -> DeltaClient:
    return DeltaClient(NODE, [ADDRESS_TYPE, AUTHORIZATION_TYPE])


def item(value, version="1", name=None) -> pb.Resource:
    url, raw = encode(value)
    resource = pb.Resource(name=name or resource_name(value), version=version)
    resource.resource.type_url, resource.resource.value = url, raw
    return resource


def unreadable_policy(name="a/p", **fields) -> pb.Resource:
    namespace, _, short = name.partition("/")
    match = apb.Match(principals=[apb.StringMatch()])
    groups = [apb.Group(rules=[apb.Rules(matches=[match])])]
    message = apb.Authorization(name=short, namespace=namespace, groups=groups, scope=1, **fields)
    resource = pb.Resource(name=name, version="2")
    resource.resource.type_url = AUTHORIZATION_TYPE
    resource.resource.value = message.SerializeToString()
    return resource


def response(type_url, *items, removed=(), nonce="n1") -> pb.DeltaDiscoveryResponse:
    return pb.DeltaDiscoveryResponse(
        type_url=type_url, resources=items, removed_resources=removed, nonce=nonce
    )


def test_the_first_requests_name_the_node_and_subscribe_to_everything(client):
    requests = client.connect()
    assert [r.type_url for r in requests] == [ADDRESS_TYPE, AUTHORIZATION_TYPE]
    for request in requests:
        assert request.node.id == "ztunnel~10.0.0.9~z.istio-system~istio-system.svc.cluster.local"
        assert dict(request.node.metadata)["CLUSTER_ID"] == "K"
        assert not request.resource_names_subscribe
        assert not request.initial_resource_versions


def test_a_good_response_is_acked_and_remembered(client):
    received = client.feed(response(ADDRESS_TYPE, item(POD)))
    assert dict(received.update.changed) == {POD.uid: POD}
    answer = client.answer(received)
    assert (answer.type_url, answer.response_nonce) == (ADDRESS_TYPE, "n1")
    assert not answer.HasField("error_detail")
    assert dict(client.connect()[0].initial_resource_versions) == {POD.uid: "1"}


def test_nothing_is_remembered_before_it_was_applied(client):
    client.feed(response(ADDRESS_TYPE, item(POD)))
    assert not client.held(ADDRESS_TYPE)


def test_a_removal_is_forgotten(client):
    client.answer(client.feed(response(ADDRESS_TYPE, item(POD))))
    received = client.feed(response(ADDRESS_TYPE, removed=[POD.uid]))
    assert received.update.removed == {POD.uid}
    client.answer(received)
    assert not client.held(ADDRESS_TYPE)


def test_synced_once_every_type_was_answered(client):
    client.answer(client.feed(response(ADDRESS_TYPE)))
    assert not client.synced
    client.answer(client.feed(response(AUTHORIZATION_TYPE)))
    assert client.synced


def test_a_bad_resource_is_nacked_by_name_and_its_neighbours_apply(client):
    bad = pb.Resource(name="bad", version="7")
    bad.resource.type_url, bad.resource.value = ADDRESS_TYPE, b"\xff"
    received = client.feed(response(ADDRESS_TYPE, bad, item(POD)))
    assert list(received.update.changed) == [POD.uid]
    answer = client.answer(received)
    assert answer.error_detail.message.startswith("bad: Address ")
    assert dict(client.held(ADDRESS_TYPE)) == {POD.uid: "1"}


def test_a_rejected_new_version_leaves_the_held_one(client):
    client.answer(client.feed(response(ADDRESS_TYPE, item(POD))))
    bad = pb.Resource(name=POD.uid, version="2")
    bad.resource.value = b"\xff"
    received = client.feed(response(ADDRESS_TYPE, bad))
    client.answer(received)
    assert not received.update.changed
    assert dict(client.held(ADDRESS_TYPE)) == {POD.uid: "1"}


def test_what_could_not_be_applied_is_nacked_and_not_remembered(client):
    received = client.feed(response(ADDRESS_TYPE, item(POD)))
    answer = client.answer(received, [BadResource("x", 1, "no room", name=POD.uid)])
    assert answer.error_detail.message == f"{POD.uid}: x 1: no room"
    assert not client.held(ADDRESS_TYPE)


def test_a_resource_under_a_strange_name_is_rejected(client):
    received = client.feed(response(ADDRESS_TYPE, item(POD, name="other")))
    assert not received.update.changed
    assert received.rejected[0].name == "other"


def test_an_unreadable_policy_denies_until_a_readable_version_comes(client):
    received = client.feed(response(AUTHORIZATION_TYPE, unreadable_policy()))
    stand_in = received.update.changed["a/p"]
    assert (stand_in.action, stand_in.groups) == (Action.DENY, ((),))
    assert client.answer(received).HasField("error_detail")
    assert not client.held(AUTHORIZATION_TYPE)  # so the server sends it again

    received = client.feed(response(AUTHORIZATION_TYPE, item(ALLOW)))
    assert dict(received.update.changed) == {"a/p": ALLOW}


def test_an_unreadable_version_of_a_known_policy_leaves_the_known_one(client):
    client.answer(client.feed(response(AUTHORIZATION_TYPE, item(ALLOW))))
    assert not client.feed(response(AUTHORIZATION_TYPE, unreadable_policy())).update.changed


def test_an_unreadable_dry_run_policy_denies_nothing(client):
    received = client.feed(response(AUTHORIZATION_TYPE, unreadable_policy(dry_run=True)))
    assert not received.update.changed


def test_no_stand_in_under_a_strange_name(client):
    resource = unreadable_policy()
    resource.name = "a/other"
    assert not client.feed(response(AUTHORIZATION_TYPE, resource)).update.changed


def test_a_type_that_nobody_asked_for_is_acked(client):
    received = client.feed(response("type.googleapis.com/other"))
    assert not client.answer(received).HasField("error_detail")


def test_a_foreign_resource_inside_a_response_is_rejected(client):
    received = client.feed(response(ADDRESS_TYPE, item(ALLOW)))
    assert "inside a response" in received.rejected[0].reason


def test_a_workload_subscription_may_be_answered_with_addresses():
    client = DeltaClient(NODE, [WORKLOAD_TYPE])
    received = client.feed(response(WORKLOAD_TYPE, item(POD)))
    assert dict(received.update.changed) == {POD.uid: POD}


def test_reasons_stay_short(client):
    bad = []
    for number in range(1000):
        resource = pb.Resource(name=f"bad-{number}")
        resource.resource.value = b"\xff"
        bad.append(resource)
    answer = client.answer(client.feed(response(ADDRESS_TYPE, *bad)))
    assert len(answer.error_detail.message) <= 4096
