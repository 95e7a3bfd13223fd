"""Asking for what a route needs, step by step, and only once."""

from tests.unit.ztunnel.core.mesh_builder import at, mesh, service, waypoint, workload
from ztunnel.io.demand import prepare

CLIENT = workload("client", "127.0.0.1")
SERVICE = service("s.example", "10.96.0.3", waypoint=waypoint("shop/wp.example"))


async def asked_for(known):
    """The names asked for; what ``known`` has under a name is then told."""
    state, asked = mesh(CLIENT), []

    async def demand(name):
        asked.append(name)
        if name in known:
            state.apply("type.googleapis.com/istio.workload.Address", {name: known[name]})

    await prepare(demand, state, CLIENT, at("10.96.0.3:80"))
    return asked


async def test_a_waypoint_is_asked_for_when_its_service_is_known():
    known = {"/10.96.0.3": SERVICE, "shop/wp.example": service("wp.example")}
    assert await asked_for(known) == ["/10.96.0.3", "shop/wp.example"]


async def test_what_nobody_knows_is_asked_for_once():
    assert await asked_for({}) == ["/10.96.0.3"]
    assert await asked_for({"/10.96.0.3": SERVICE}) == ["/10.96.0.3", "shop/wp.example"]
