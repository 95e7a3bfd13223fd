"""The embedded server's verbs as the kubelets call them."""

from __future__ import annotations

import datetime
import itertools
from ipaddress import IPv4Network

import pytest
import trio

from ambient.kube.core.errors import Conflict, NotFound
from ambient.kube.core.resources import CONFIG_MAPS, NAMESPACES, PODS, SERVICE_ACCOUNTS
from ambientctl.local.apiserver.core.cluster import Cluster, Surroundings
from ambientctl.local.apiserver.core.tokens import TokenAuthority
from ambientctl.local.direct_api import DirectApi


@pytest.fixture
async def api():
    numbers = itertools.count()
    around = Surroundings(
        lambda: datetime.datetime.now(datetime.UTC),
        lambda: f"00000000-0000-0000-0000-{next(numbers):012}",
        lambda length: "x" * length,
    )
    cluster = Cluster(around, IPv4Network("10.96.0.0/16"))
    api = DirectApi(cluster, TokenAuthority(cluster.store, "https://issuer"), "test")
    await api.create(NAMESPACES, {"metadata": {"name": "shop"}})
    return api


def pod(name, node):
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "none", "command": ["true"]}]}
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}


async def test_refusals_are_the_clients_errors(api):
    settings = {"metadata": {"name": "settings", "namespace": "shop"}}
    await api.create(CONFIG_MAPS, settings)
    with pytest.raises(Conflict):
        await api.create(CONFIG_MAPS, settings)
    with pytest.raises(NotFound):
        await api.get(CONFIG_MAPS, "absent", "shop")


async def test_a_kubelet_sees_the_pods_of_its_node_only(api):
    await api.create(PODS, pod("first", "node-1"))
    seen = []

    async def follow():
        async for event in api.follow(PODS, field_selector="spec.nodeName=node-1"):
            seen.append((event.kind.value, event.object.get("metadata", {}).get("name")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        await api.create(PODS, pod("second", "node-1"))
        await api.create(PODS, pod("foreign", "node-2"))
        status = {"status": {"phase": "Running"}}
        await api.patch(PODS, "second", status, namespace="shop", subresource="status")
        await api.delete(PODS, "first", "shop", grace_s=0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert seen == [
        ("ADDED", "first"),
        ("SYNCED", None),
        ("ADDED", "second"),
        ("MODIFIED", "second"),
        ("DELETED", "first"),
    ]


async def test_a_pod_gets_a_token_bound_to_it(api):
    made = await api.create(PODS, pod("first", "node-1"))
    bound = {"kind": "Pod", "name": "first", "uid": made["metadata"]["uid"]}
    request = {
        "metadata": {"name": "default", "namespace": "shop"},
        "spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600, "boundObjectRef": bound},
    }
    answer = await api.create(SERVICE_ACCOUNTS, request, subresource="token")
    assert answer["status"]["token"].count(".") == 2
