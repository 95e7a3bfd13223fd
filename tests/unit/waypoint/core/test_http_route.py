"""HTTPRoute: Gateway API's precedence, filters and backend references."""

from __future__ import annotations

import pytest

from ambient.api.address import HostPort
from tests.unit.waypoint.core.test_virtual_service import TO_V1, go
from tests.unit.waypoint.sample import (
    INTRUDER,
    RATINGS,
    config,
    program,
    request,
    service,
    subsets,
    virtual_service,
)

PARENT = {"group": "", "kind": "Service", "name": "reviews", "port": 9080}
GATEWAY = {"name": "waypoint"}
TO_REVIEWS = {"backendRefs": [{"name": "reviews", "port": 9080}]}
TO_RATINGS = {"backendRefs": [{"name": "ratings", "port": 9080}]}


def route(*rules, name="r", namespace="shop", parents=(PARENT,), created="", **spec):
    whole = {"parentRefs": list(parents), "rules": list(rules), **spec}
    return config("HTTPRoute", name, whole, namespace, creationTimestamp=created)


def path(kind, value):
    return {"path": {"type": kind, "value": value}}


@pytest.mark.parametrize(
    ("match", "facts", "found"),
    [
        ({}, {}, True),
        (path("PathPrefix", "/foo"), {"target": "/foo"}, True),
        (path("PathPrefix", "/foo"), {"target": "/foo/bar?x"}, True),
        (path("PathPrefix", "/foo/"), {"target": "/foo"}, True),
        (path("PathPrefix", "/foo"), {"target": "/foobar"}, False),  # whole segments
        (path("Exact", "/foo"), {"target": "/foo/"}, False),
        (path("RegularExpression", "/f.*"), {"target": "/foo"}, True),
        (path("Glob", "/f*"), {"target": "/foo"}, False),
        ({"method": "GET"}, {}, True),
        ({"method": "PUT"}, {}, False),
        ({"headers": [{"name": "X-A", "value": "1"}]}, {"headers": {"x-a": "1"}}, True),
        (
            {"headers": [{"name": "x-a", "value": "1"}, {"name": "X-A", "value": "2"}]},
            {"headers": {"x-a": "1"}},
            True,
        ),  # the first of equal names counts
        (
            {"headers": [{"name": "x-a", "type": "RegularExpression", "value": "[0-9]+"}]},
            {"headers": {"x-a": "12"}},
            True,
        ),
        ({"queryParams": [{"name": "v", "value": "1"}]}, {"target": "/?v=1"}, True),
        ({"queryParams": [{"name": "v", "value": "1"}]}, {"target": "/?V=1"}, False),
    ],
)
def test_match(match, facts, found):
    other = {"matches": [path("Exact", "/other")], **TO_REVIEWS}
    decided, _ = go([route({"matches": [match], **TO_REVIEWS}, other)], request(**facts))
    assert (decided.route is not None) is found
    assert found or decided.reply.status == 404


def test_the_most_specific_match_wins_whatever_the_order():
    rules = [
        {"name": n, "matches": [m], **TO_REVIEWS}
        for n, m in [
            ("all", {}),
            ("short", path("PathPrefix", "/a")),
            ("regex", path("RegularExpression", "/a/.*")),
            ("long", path("PathPrefix", "/a/b")),
            ("header", {**path("PathPrefix", "/a/b"), "headers": [{"name": "h", "value": "1"}]}),
            ("method", {**path("PathPrefix", "/a/b"), "method": "PUT"}),
            ("exact", path("Exact", "/a/b")),
        ]
    ]
    objects = [route(*rules)]
    index = {rule["name"]: number for number, rule in enumerate(rules)}

    def rule_of(**facts):
        return go(objects, request(**facts))[0].route.name

    for name, facts in {
        "exact": {"target": "/a/b"},
        "long": {"target": "/a/b/c"},
        "method": {"target": "/a/b/c", "method": "PUT", "headers": {"h": "1"}},
        "header": {"target": "/a/b/c", "headers": {"h": "1"}},
        "short": {"target": "/a/x"},
        "all": {"target": "/z"},
    }.items():
        assert rule_of(**facts) == f"shop.r.{index[name]}", name


def test_older_routes_come_first_then_names():
    objects = [
        route(TO_REVIEWS, name="b", created="2026-01-02T00:00:00Z"),
        route(TO_REVIEWS, name="c", created="2026-01-01T00:00:00Z"),
        route(TO_REVIEWS, name="a", created="2026-01-02T00:00:00Z"),
    ]
    names = [r.name for r in program(*objects).table(service(), 9080).routes]
    assert names == ["shop.c.0", "shop.a.0", "shop.b.0"]


def test_a_route_of_another_namespace_is_for_its_own_clients():
    consumer = route(
        {"backendRefs": [{"name": "ratings", "namespace": "shop", "port": 9080}]},
        namespace="outside",
        parents=[{**PARENT, "namespace": "shop"}],
    )
    own = go([consumer, route(TO_REVIEWS)], request(source=INTRUDER))[0]
    other = go([consumer, route(TO_REVIEWS)])[0]
    assert own.upstream.service.name == "ratings"
    assert other.upstream.service.name == "reviews"
    # Who has no route at all calls the service itself.
    assert go([consumer])[0].upstream.service.name == "reviews"
    assert go([consumer], request(source=INTRUDER))[0].upstream.service.name == "ratings"


@pytest.mark.parametrize(
    ("parent", "hostnames", "applies"),
    [
        (PARENT, [], True),
        ({**PARENT, "port": 1}, [], False),
        ({**PARENT, "name": "ratings"}, [], False),
        (GATEWAY, [], True),
        ({"name": "other"}, [], False),
        (GATEWAY, ["reviews.shop.svc.cluster.local"], True),
        (GATEWAY, ["*.shop.svc.cluster.local"], True),
        (GATEWAY, ["reviews"], True),  # as the client's Host says it
        (GATEWAY, ["example.com"], False),
        (PARENT, ["example.com"], True),  # hostnames mean nothing for a Service parent
    ],
)
def test_parents(parent, hostnames, applies):
    decided, _ = go([route(TO_RATINGS, parents=[parent], hostnames=hostnames)])
    if applies:
        assert decided.upstream.service.name == "ratings"
    else:
        assert decided.route is None or decided.route.name == "default"


def test_weights_and_broken_references():
    refs = [
        {"name": "reviews", "port": 9080, "weight": 8},
        {"name": "nobody", "port": 9080, "weight": 1},
        {"name": "x", "kind": "Bucket", "group": "s3", "port": 1, "weight": 1},
        {"name": "ratings", "port": 9080, "weight": 0},
    ]
    objects = [route({"backendRefs": refs})]
    found = [go(objects, draw=lambda d=d: d / 10)[0] for d in range(10)]
    assert [f.reply.status if f.reply else 200 for f in found] == [200] * 8 + [500, 500]
    for rule in ({}, {"backendRefs": [{**refs[0], "weight": 0}]}):
        assert go([route(rule)])[0].reply.status == 500


@pytest.mark.parametrize(
    ("prefix", "edit", "target", "want"),
    [
        ("/foo", {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}, "/foo/bar", "/bar"),
        ("/foo", {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}, "/foo", "/"),
        ("/foo", {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x/"}, "/foo/bar", "/x/bar"),
        ("/foo", {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}, "/foo?q", "/x?q"),
        ("/foo", {"type": "ReplaceFullPath", "replaceFullPath": "/y"}, "/foo/bar?q", "/y?q"),
    ],
)
def test_rewrite(prefix, edit, target, want):
    filters = [{"type": "URLRewrite", "urlRewrite": {"hostname": "new", "path": edit}}]
    rule = {"matches": [path("PathPrefix", prefix)], "filters": filters, **TO_REVIEWS}
    _, asked = go([route(rule)], request(target=target))
    assert (asked.target, asked.authority) == (want, "new")


@pytest.mark.parametrize(
    ("prefix", "replacement", "target", "want"),
    [  # the table of the specification (HTTPPathModifier)
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "", "/foo/bar", "/bar"),
        ("/foo", "", "/foo/", "/"),
        ("/foo", "", "/foo", "/"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo", "/"),
    ],
)
def test_replaced_prefixes(prefix, replacement, target, want):
    edit = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": replacement}}
    matches = [path("PathPrefix", prefix)]
    rewriting = [{"type": "URLRewrite", "urlRewrite": edit}]
    rule = {"matches": matches, "filters": rewriting, **TO_REVIEWS}
    assert go([route(rule)], request(target=target))[1].target == want
    sending = [{"type": "RequestRedirect", "requestRedirect": edit}]
    decided, _ = go([route({"matches": matches, "filters": sending})], request(target=target))
    assert dict(decided.reply.headers)["location"].endswith(f"reviews:9080{want}")


def test_header_filters_of_rule_and_backend():
    def modifier(kind, **edits):
        key = kind[0].lower() + kind[1:]
        return {"type": kind, key: {k: [{"name": n, "value": v}] for k, (n, v) in edits.items()}}

    rule = {
        "filters": [modifier("RequestHeaderModifier", set=("X-A", "1"))],
        "backendRefs": [
            {
                **TO_REVIEWS["backendRefs"][0],
                "filters": [modifier("RequestHeaderModifier", add=("X-A", "2"))],
            }
        ],
    }
    _, asked = go([route(rule)])
    assert asked.headers.items == [("x-a", "1"), ("x-a", "2")]


@pytest.mark.parametrize(
    ("redirect", "port", "location"),
    [
        ({}, 80, "http://b/foo"),
        ({}, 8080, "http://b:8080/foo"),
        ({"scheme": "https"}, 8080, "https://b/foo"),
        ({"hostname": "c", "port": 81}, 80, "http://c:81/foo"),
        ({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}, 80, "http://b/x"),
        ({"scheme": "https", "port": 443}, 80, "https://b/foo"),
        ({"scheme": "https", "port": 8443}, 80, "https://b:8443/foo"),
        ({"scheme": "http", "port": 80}, 8080, "http://b/foo"),
        ({"scheme": "http", "port": 443}, 80, "http://b:443/foo"),
        ({"port": 443}, 80, "http://b:443/foo"),
        ({"hostname": "c"}, 8080, "http://c:8080/foo"),
        ({"hostname": "c", "scheme": "https"}, 8080, "https://c/foo"),
    ],
)
def test_redirect(redirect, port, location):
    rule = {"filters": [{"type": "RequestRedirect", "requestRedirect": redirect}]}
    action = program(route(rule)).table(service(), 9080).routes[0].action
    asked = request(target="/foo", host="b", local=HostPort("10.0.0.1", port))
    reply = action.reply(asked)
    assert (reply.status, dict(reply.headers)["location"]) == (302, location)


@pytest.mark.parametrize(
    ("rule", "field", "status"),
    [
        ({"filters": [{"type": "ExtensionRef"}], **TO_REVIEWS}, "spec.rules[0].filters[0]", 500),
        (
            {"filters": [{"type": "RequestMirror"}], **TO_REVIEWS},
            "spec.rules[0].filters[0].requestMirror.backendRef.name",
            0,
        ),
        ({"timeouts": {"request": "x"}, **TO_REVIEWS}, "spec.rules[0].timeouts.request", 500),
    ],
)
def test_what_is_not_supported_is_named(rule, field, status):
    rule = {**rule, "matches": [{}, {"method": "PUT"}]}
    compiled = program(route(rule))
    assert [(p.object, p.field) for p in compiled.problems] == [("HTTPRoute/shop/r", field)]
    reply = go([route(rule)])[0].reply
    assert (reply.status if reply else 0) == status


def test_http_routes_come_before_virtual_services():
    only_a = {"matches": [path("Exact", "/a")], **TO_RATINGS}
    objects = [route(only_a), subsets(), virtual_service({"name": "vs", **TO_V1})]
    assert go(objects, request(target="/a"))[0].route.name == "shop.r.0"
    assert go(objects, request(target="/b"))[0].route.name == "vs"


def test_timeouts():
    limits = {"request": "10s", "backendRequest": "2s"}
    found = program(route({"timeouts": limits, **TO_REVIEWS})).table(service(), 9080).routes[0]
    assert (found.timeout_s, found.retries.per_try_s) == (10.0, 2.0)
    again = {"retry": {"codes": [500], "attempts": 3, "backoff": "10ms"}, **TO_REVIEWS}
    found = program(route(again)).table(service(), 9080).routes[0]
    assert (found.retries.attempts, found.retries.statuses) == (3, frozenset((500,)))


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ({}, 1.0),
        ({"percent": 25}, 0.25),
        ({"fraction": {"numerator": 1}}, 0.01),
        ({"fraction": {"numerator": 1, "denominator": 3}}, 1 / 3),
    ],
)
def test_mirrors(said, share):
    spec = {"backendRef": {"name": "ratings", "port": 9080}, **said}
    rule = {"filters": [{"type": "RequestMirror", "requestMirror": spec}], **TO_REVIEWS}
    (found,) = go([route(rule)])[0].route.mirrors
    assert (found.backend.service.hostname, found.share) == (
        "ratings.shop.svc.cluster.local",
        share,
    )


def test_cors():
    spec = {"allowOrigins": ["https://*.shop.example"], "allowMethods": ["GET"]}
    rule = {"filters": [{"type": "CORS", "cors": spec}], **TO_REVIEWS}
    asks = {"origin": "https://a.shop.example", "access-control-request-method": "GET"}
    decided, _ = go([route(rule)], request("OPTIONS", headers=asks))
    assert dict(decided.reply.headers)["access-control-allow-methods"] == "GET"


def test_a_service_entry_is_a_parent_too():
    parent = {"group": "networking.istio.io", "kind": "ServiceEntry", "name": "api"}
    compiled = program(route(TO_REVIEWS, parents=[parent]))
    external = service("api", hostname="api.example.com")
    assert compiled.table(external, 9080).routes[0].name == "shop.r.0"
    assert compiled.table(service("api"), 9080).routes[0].name == "default"


@pytest.mark.parametrize(
    ("ref", "host", "status"),
    [
        ({"name": "ratings"}, "ratings.shop.svc.cluster.local", 0),
        ({"name": "nobody"}, "", 500),
        ({"kind": "Hostname", "group": "networking.istio.io", "name": RATINGS.hostname},
         RATINGS.hostname, 0),
        ({"kind": "InferencePool", "group": "x", "name": "p"}, "", 500),
        ({"kind": "ServiceImport", "group": "multicluster.x-k8s.io", "name": "r"}, "", 500),
    ],
)  # fmt: skip
def test_backends(ref, host, status):
    decided, _ = go([route({"backendRefs": [{**ref, "port": 9080}]})])
    assert (decided.reply.status if decided.reply else 0) == status
    assert not host or decided.upstream.service.hostname == host


def test_a_session_keeps_its_endpoint_and_its_backend():
    both = [{"name": "reviews", "port": 9080}, {"name": "ratings", "port": 9080, "weight": 0}]
    rule = {"backendRefs": both, "sessionPersistence": {"sessionName": "s"}}
    decided, _ = go([route(rule)])
    assert decided.route.session.name == "s"
