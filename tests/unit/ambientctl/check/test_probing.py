"""Which pods are reached for, and from where; the probes themselves are made by tunnels."""

from __future__ import annotations

import pytest

from ambientctl.check.probing import Source, Target, best_source, sources_of, targets_of
from ambientctl.ztunnel_config.dump import Dump


def workload(name, node, owner="", **more):
    where, _, short = name.partition("/")
    return {
        "uid": f"Kubernetes//Pod/{name}", "namespace": where, "name": short, "node": node,
        "workloadName": owner or short, "workloadIps": [f"10.0.0.{len(short)}"],
        "protocol": "HBONE", "status": "Healthy", **more,
    }  # fmt: skip


def names(*workloads):
    dump = Dump({"workloads": list(workloads)})
    return [f"{one.namespace}/{one.name}" for one in targets_of({"zt": dump})]


def test_one_pod_of_each_workload_and_one_on_each_node():
    web = [workload(f"shop/web-{n}", f"node-{n}", "web") for n in (1, 1, 2)]
    assert names(*web) == ["shop/web-1", "shop/web-2"]
    assert names(*web, workload("shop/api-1", "node-1", "api")) == [
        "shop/api-1", "shop/web-1", "shop/web-2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {"protocol": "TCP"}, {"status": "Unhealthy"}, {"workloadIps": []},
        {"uid": "cluster/networking.istio.io/ServiceEntry/shop/x"},
        {"networkGateway": {"destination": "/192.0.2.1"}},
    ],
)  # fmt: skip
def test_who_cannot_answer_is_not_asked(more):
    assert names(workload("shop/web", "node-1", **more)) == []


def test_the_source_is_of_the_same_namespace_and_on_another_node_where_there_is_one():
    target = Target("shop", "web", "node-1", "10.0.0.1")
    own = Source("zt-1", "u0", "shop", "web", "node-1")
    neighbour = Source("zt-1", "u1", "shop", "api", "node-1")
    near = Source("zt-2", "u2", "shop", "api", "node-2")
    far = Source("zt-2", "u3", "other", "api", "node-2")
    everybody = [own, far, neighbour, near]
    order = []
    while (chosen := best_source(target, everybody, order)) is not None:
        order.append(chosen)
    assert order == [near, neighbour, far]


def test_pods_that_are_served_are_sources():
    state = {"u1": {"state": "Up", "info": {"name": "web", "namespace": "shop"}}}
    dump = Dump({"workloads": [], "workloadState": state})
    (one,) = sources_of({"zt-1": dump}, {"zt-1": "node-1"})
    assert one == Source("zt-1", "u1", "shop", "web", "node-1")
    assert sources_of({"zt-1": Dump({"workloads": []})}, {}) == []
