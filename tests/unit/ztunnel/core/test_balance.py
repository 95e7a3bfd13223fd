"""Which endpoint is chosen, with the draw given."""

import pytest

from ambient.api.service import HealthPolicy, LoadBalancing, Mode, Scope
from ambient.api.workload import Locality, WorkloadStatus
from tests.unit.ztunnel.core.mesh_builder import mesh, service, workload
from ztunnel.core.balance import candidates, choose, rank, top_rank

CLIENT = workload("client", "10.0.0.9", network="n", locality=Locality("r", "z", "s"), node="node")
UNHEALTHY = WorkloadStatus.UNHEALTHY


def endpoint(name, **more):
    return workload(name, "10.0.0.1", services={"s.example": {80: 8080}}, **more)


def names_of(balancing, *endpoints):
    one = service("s.example", "127.0.0.3", load_balancing=balancing)
    found = candidates(one, mesh(one, *endpoints).endpoints(one), 80)
    draws = [n / 100 for n in range(100)]
    chosen = [choose(found, balancing, CLIENT, lambda d=d: d) for d in draws]
    return {c.workload.name if c else None for c in chosen}


HERE = Locality("r", "z", "s")
NEAR = Locality("r", "other")
FAR = Locality("elsewhere")
FAILOVER = LoadBalancing((Scope.REGION, Scope.ZONE), Mode.FAILOVER)
STRICT = LoadBalancing((Scope.REGION, Scope.ZONE), Mode.STRICT)


@pytest.mark.parametrize(
    ("balancing", "endpoints", "want"),
    [
        (LoadBalancing(), [endpoint("a"), endpoint("b")], {"a", "b"}),
        (LoadBalancing(), [endpoint("a", status=UNHEALTHY), endpoint("b")], {"b"}),
        (LoadBalancing(), [endpoint("a", status=UNHEALTHY)], {None}),
        (
            LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL),
            [endpoint("a", status=UNHEALTHY), endpoint("b")],
            {"a", "b"},
        ),
        (LoadBalancing(), [endpoint("a", capacity=0), endpoint("b")], {"b"}),
        (LoadBalancing(), [endpoint("a", capacity=0)], {None}),
        (FAILOVER, [endpoint("a", locality=HERE), endpoint("b", locality=NEAR)], {"a"}),
        (FAILOVER, [endpoint("b", locality=NEAR), endpoint("c", locality=FAR)], {"b"}),
        (FAILOVER, [endpoint("c", locality=FAR), endpoint("d", locality=FAR)], {"c", "d"}),
        (STRICT, [endpoint("a", locality=HERE), endpoint("b", locality=NEAR)], {"a"}),
        (STRICT, [endpoint("b", locality=NEAR)], {None}),
        (LoadBalancing((Scope.NODE,)), [endpoint("a", node="node"), endpoint("b")], {"a", "b"}),
    ],
)
def test_who_may_be_chosen(balancing, endpoints, want):
    assert names_of(balancing, *endpoints) == want


def test_capacity_weighs_the_draw():
    one = service("s.example", "127.0.0.3")
    state = mesh(one, endpoint("a", capacity=1), endpoint("b", capacity=9))
    found = candidates(one, state.endpoints(one), 80)
    picks = [choose(found, LoadBalancing(), CLIENT, lambda d=d: d / 100) for d in range(100)]
    assert [p.workload.name for p in picks].count("b") == 90


NETWORK_FIRST = (Scope.NETWORK, Scope.REGION, Scope.ZONE)


@pytest.mark.parametrize(
    ("server", "want"),
    [
        ({"network": "n", "locality": Locality("r", "z")}, 5),
        ({"network": "n", "locality": Locality("r", "q")}, 4),
        ({"network": "n", "locality": Locality("q", "z")}, 3),
        ({"network": "x", "locality": Locality("r", "z")}, 2),
        ({"network": "x", "locality": Locality("r", "q")}, 1),
        ({"network": "x", "locality": Locality("q", "z")}, 0),
    ],
)
def test_a_leading_network_is_preferred_without_blocking(server, want):
    assert rank(NETWORK_FIRST, CLIENT, workload("s", "10.0.0.1", **server)) == want
    assert top_rank(NETWORK_FIRST) == 5


def test_every_scope_is_compared():
    scopes = (Scope.REGION, Scope.ZONE, Scope.SUBZONE, Scope.NODE, Scope.CLUSTER, Scope.NETWORK)
    twin = workload("t", "10.0.0.1", network="n", locality=HERE, node="node")
    assert rank(scopes, CLIENT, twin) == top_rank(scopes) == 6
    assert rank((Scope.UNSPECIFIED_SCOPE,), CLIENT, twin) == 1


def test_pain_45_endpoints_that_are_not_ready_take_nothing():
    """Completed jobs and pods that are not ready, or no longer: the control plane says so."""
    ready = endpoint("ready")
    others = [endpoint("starting", status=UNHEALTHY), endpoint("ending", status=UNHEALTHY)]
    assert names_of(LoadBalancing(), ready, *others) == {"ready"}
    assert names_of(FAILOVER, endpoint("far", locality=FAR), *others) == {"far"}
    assert names_of(LoadBalancing(), *others) == {None}
