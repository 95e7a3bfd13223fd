"""Clusters are found again, follow the mesh, and are forgotten."""

from __future__ import annotations

from ambient.api.type_urls import ADDRESS_TYPE
from tests.unit.waypoint.sample import AT, REVIEWS, mesh, program, service, subsets, workload
from waypoint.core.clusters import FORGET_AFTER_S, Clusters
from waypoint.core.dispatch import Destination, Protocol
from waypoint.core.plan import direct, resolve
from waypoint.core.routes import Backend

TO = Destination(address=AT, protocol=Protocol.HTTP1, service=service())


def test_one_cluster_for_each_port_and_subset():
    state, configured = mesh(), program(subsets())
    clusters = Clusters(lambda: 0.5)

    def of(subset, now_s=0.0):
        upstream = resolve(Backend(service=REVIEWS, subset=subset), configured, state, TO)
        return clusters.get(upstream, None, now_s)

    assert of("") is of("")
    assert of("") is not of("v1")
    assert len(of("").hosts) == 2
    assert len(of("v1").hosts) == 1
    (host,) = of("v1").hosts.values()
    state.apply(ADDRESS_TYPE, {}, ["Kubernetes//Pod/shop/reviews-v1"])
    assert not of("v1").hosts
    assert host.gone
    assert len(of("").hosts) == 1
    of("", FORGET_AFTER_S * 2)
    of("v2", FORGET_AFTER_S * 2)
    assert {cluster.name for cluster in clusters} == {
        "inbound-vip|9080|http|reviews.shop.svc.cluster.local",
        "inbound-vip|9080|http/v2|reviews.shop.svc.cluster.local",
    }


def test_pods_that_are_called_directly_are_clusters_of_their_own():
    clusters = Clusters(lambda: 0.5)
    found = [
        clusters.get(direct(workload("x", ip, "v1"), TO), None, 0.0)
        for ip in ("10.0.0.1", "10.0.0.1")
    ]
    assert found[0] is found[1]
    assert len(found[0].hosts) == 1
