"""Connections that are not HTTP: tls, tcp, TLSRoute, TCPRoute."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import REVIEWS, config, program, service

HOST = REVIEWS.hostname


def to(host="ratings", weight=None):
    entry = {"destination": {"host": host}}
    return entry if weight is None else {**entry, "weight": weight}


def stream_service(*, tls=(), tcp=()):
    spec = {"hosts": ["reviews"], "tls": list(tls), "tcp": list(tcp)}
    return config("VirtualService", "v", spec)


def selected(objects, port=9080, sni="", client="shop"):
    streams = program(*objects).streams(service(), port)
    return next((s for s in streams if s.applies(HOST, port, sni, client)), None)


@pytest.mark.parametrize(
    ("hosts", "sni", "found"),
    [
        ([HOST], "", True),  # the service itself: whatever the client says
        ([HOST], "other", True),
        (["a.example.com"], "", False),
        (["a.example.com"], "A.example.com", True),
        (["*.example.com"], "a.example.com", True),
        (["*.example.com"], "example.com", False),
        ([HOST, "a.example.com"], "", False),
    ],
)
def test_server_names(hosts, sni, found):
    rule = {"match": [{"sniHosts": hosts}], "route": [to()]}
    assert (selected([stream_service(tls=[rule])], sni=sni) is not None) is found


def test_order_ports_and_weights():
    objects = [
        stream_service(
            tcp=[{"match": [{"port": 1}], "route": [to("nobody")]}, {"route": [to(), to("x", 3)]}],
            tls=[{"match": [{"sniHosts": ["a"]}], "route": [to("t")]}],
        )
    ]
    assert selected(objects, sni="a").source == "VirtualService/shop/v tls[0] match[0]"
    found = selected(objects)
    assert found.source == "VirtualService/shop/v tcp[1]"
    assert [b.service.hostname for b in found.forward.backends] == ["x.shop.svc.cluster.local"]
    assert selected(objects, port=1).source == "VirtualService/shop/v tcp[0] match[0]"


def test_who_needs_the_server_name():
    rules = [
        {"match": [{"sniHosts": [HOST]}], "route": [to()]},
        {"match": [{"sniHosts": ["a"], "port": 7}], "route": [to()]},
    ]
    streams = program(stream_service(tls=rules)).streams(service(), 9080)
    assert [s.needs_sni(HOST, 9080) for s in streams] == [False, False]
    assert [s.needs_sni(HOST, 7) for s in streams] == [False, True]


def route(kind, *backends, **parent):
    spec = {
        "parentRefs": [{"group": "", "kind": "Service", "name": "reviews", **parent}],
        "rules": [{"backendRefs": list(backends)}],
    }
    return config(kind, "r", spec)


def test_gateway_api():
    backend = {"name": "ratings", "port": 9080}
    tcp = route("TCPRoute", {**backend, "weight": 3}, {**backend, "weight": 0})
    found = selected([tcp])
    assert [b.weight for b in found.forward.backends] == [3]
    assert selected([tcp, route("TLSRoute", backend)]).source == "TLSRoute/shop/r rules[0]"
    assert selected([route("TCPRoute", backend, port=1)]) is None
    assert selected([route("TCPRoute", {**backend, "weight": 0})]).forward is None


def test_a_stream_route_of_another_namespace_is_for_its_clients():
    parents = [{"group": "", "kind": "Service", "name": "reviews", "namespace": "shop"}]
    refs = [{"name": "ratings", "namespace": "shop", "port": 9080}]
    spec = {"parentRefs": parents, "rules": [{"backendRefs": refs}]}
    own = {**spec, "rules": [{"backendRefs": [{"name": "reviews", "port": 9080}]}]}
    routes = [config("TCPRoute", "own", own), config("TCPRoute", "theirs", spec, "outside")]
    assert selected(routes, client="outside").source == "TCPRoute/outside/theirs rules[0]"
    assert selected(routes).source == "TCPRoute/shop/own rules[0]"
    assert selected(routes[1:]) is None
