"""VirtualService: which route a request takes, and what the route does to it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.unit.waypoint.sample import (
    OWN,
    REVIEWS,
    config,
    mesh,
    program,
    request,
    service,
    subsets,
    to_subset,
    virtual_service,
)
from waypoint.core.dispatch import Destination, Protocol, dispatch
from waypoint.core.filters import Redirect
from waypoint.core.message import Headers, Response
from waypoint.core.plan import plan
from waypoint.core.routes import DirectResponse, Forward

TO_V1 = {"route": [to_subset("v1")]}


def go(objects, asked=None, draw=lambda: 0.0, state=None):
    """Plan a request for reviews; answers the plan and the (edited) request."""
    state = state or mesh()
    asked = asked or request()
    to = dispatch(str(asked.local), state, OWN, "")
    assert isinstance(to, Destination), to
    return plan(asked, program(*objects), state, to, draw), asked


def selected(match, **facts):
    """Does a rule with this match get the request?"""
    decided, _ = go([subsets(), virtual_service({"match": [match], **TO_V1})], request(**facts))
    return decided.route is not None


@pytest.mark.parametrize(
    ("match", "facts", "found"),
    [
        ({}, {}, True),
        ({"uri": {"exact": "/a"}}, {"target": "/a?b"}, True),
        ({"uri": {"exact": "/a"}}, {"target": "/a/"}, False),
        ({"uri": {"prefix": "/foo"}}, {"target": "/foobar"}, True),  # a plain prefix of the text
        ({"uri": {"prefix": "/foo"}}, {"target": "/Foo"}, False),
        ({"uri": {"prefix": "/foo"}, "ignoreUriCase": True}, {"target": "/FOO/x"}, True),
        ({"uri": {"exact": "/foo"}, "ignoreUriCase": True}, {"target": "/FOO"}, True),
        ({"uri": {"regex": "/v[12]/.*"}}, {"target": "/v1/x"}, True),
        ({"uri": {"regex": "/v[12]"}}, {"target": "/v1/x"}, False),  # the whole path
        ({"method": {"exact": "GET"}}, {}, True),
        ({"method": {"exact": "get"}}, {}, False),
        ({"method": {"regex": "GET|HEAD"}}, {"method": "HEAD"}, True),
        ({"authority": {"exact": "reviews:9080"}}, {}, True),
        ({"scheme": {"exact": "http"}}, {}, True),
        ({"headers": {"End-User": {"exact": "jason"}}}, {"headers": {"end-user": "jason"}}, True),
        ({"headers": {"end-user": {"exact": "jason"}}}, {}, False),
        ({"headers": {"end-user": {}}}, {"headers": {"end-user": ""}}, True),  # presence
        ({"headers": {"end-user": {"regex": "*"}}}, {}, False),
        ({"headers": {":method": {"exact": "GET"}}}, {}, True),
        ({"withoutHeaders": {"x": {}}}, {}, True),
        ({"withoutHeaders": {"x": {}}}, {"headers": {"x": ""}}, False),
        ({"withoutHeaders": {"x": {"exact": "1"}}}, {}, True),
        ({"withoutHeaders": {"x": {"exact": "1"}}}, {"headers": {"x": "1"}}, False),
        ({"withoutHeaders": {"x": {"regex": ".*"}}}, {}, False),
        ({"queryParams": {"v": {"exact": "2"}}}, {"target": "/?u=1&v=2&v=3"}, True),
        ({"queryParams": {"v": {"exact": "3"}}}, {"target": "/?v=2&v=3"}, False),
        ({"queryParams": {"v": {}}}, {"target": "/?v"}, True),
        ({"queryParams": {"v": {}}}, {"target": "/"}, False),
        ({"sourceNamespace": "shop"}, {}, True),
        ({"sourceNamespace": "shop"}, {"source": None}, False),
        ({"port": 9080}, {}, True),
        ({"port": 80}, {}, False),
        ({"method": {"exact": "GET"}, "uri": {"exact": "/x"}}, {}, False),  # fields are AND-ed
        ({"sourceLabels": {"app": "curl"}}, {}, False),
        ({"gateways": ["mesh", "x"]}, {}, True),
        ({"gateways": ["x"]}, {}, False),
        ({"uri": {"regex": "("}}, {"target": "("}, False),
        ({"uri": {"regex": "(?=a)"}}, {}, False),
        ({"uri": {"exact": "/", "prefix": "/"}}, {}, False),
        ({"headers": {"@request.auth.claims.sub": {"exact": "x"}}}, {}, False),
    ],
)
def test_match(match, facts, found):
    # where no rule is left the service's own route is used, so an odd rule comes along
    other = {"match": [{"uri": {"exact": "/other"}}], **TO_V1}
    decided, _ = go(
        [subsets(), virtual_service({"match": [match], **TO_V1}, other)], request(**facts)
    )
    assert (decided.route is not None) is found
    assert found or (decided.reply.status, decided.reply.flag) == (404, "NR")


def test_entries_are_or_ed_and_the_first_rule_wins():
    rules = [
        {"name": "a", "match": [{"uri": {"exact": "/a"}}, {"uri": {"exact": "/b"}}], **TO_V1},
        {"name": "b", "match": [{"uri": {"prefix": "/"}, "name": "all"}], **TO_V1},
        {"name": "never", **TO_V1},
    ]
    objects = [subsets(), virtual_service(*rules)]
    named = {t: go(objects, request(target=t))[0].route.name for t in ("/a", "/b", "/c")}
    assert named == {"/a": "a", "/b": "a", "/c": "b.all"}
    table = program(*objects).table(service(), 9080)
    assert [route.source for route in table.routes] == [
        "VirtualService/shop/reviews http[0] match[0]",
        "VirtualService/shop/reviews http[0] match[1]",
        "VirtualService/shop/reviews http[1] match[0]",
    ]


def test_weights_share_a_seeded_draw():
    draw = random.Random(7).random
    rule = {"route": [to_subset("v1", 90), to_subset("v2", 10), to_subset("v3", 0)]}
    objects = [subsets(), virtual_service(rule)]
    state = mesh()
    found = Counter(
        go(objects, draw=draw, state=state)[0].upstream.backend.subset for _ in range(2000)
    )
    assert found["v3"] == 0
    assert 1740 <= found["v1"] <= 1860


@pytest.mark.parametrize(
    ("draw", "subset"), [(0.0, "v1"), (0.8999, "v1"), (0.9, "v2"), (0.9999, "v2")]
)
def test_the_draw_decides(draw, subset):
    rule = {"route": [to_subset("v1", 90), to_subset("v2", 10)]}
    decided, _ = go([subsets(), virtual_service(rule)], draw=lambda: draw)
    assert decided.upstream.backend.subset == subset
    assert [t.workload.name for t in decided.upstream.targets] == [f"reviews-{subset}"]


@pytest.mark.parametrize(
    ("objects", "status"),
    [
        ([virtual_service({"route": [{"destination": {"host": "nobody"}}]})], 503),
        ([virtual_service(TO_V1)], 503),  # a subset without a DestinationRule
        (
            [
                virtual_service(
                    {"route": [{"destination": {"host": "reviews", "port": {"number": 1}}}]}
                )
            ],
            503,
        ),
        ([virtual_service({"route": []})], 500),
        ([virtual_service({"route": [to_subset("v1", 0), to_subset("v2", 0)]})], 500),
    ],
)
def test_routes_that_lead_nowhere(objects, status):
    assert go(objects)[0].reply.status == status


def test_another_service_can_be_the_destination():
    decided, _ = go([virtual_service({"route": [{"destination": {"host": "ratings"}}]})])
    assert [t.workload.name for t in decided.upstream.targets] == ["ratings-v1"]
    assert decided.upstream.cluster == "inbound-vip|9080|http|ratings.shop.svc.cluster.local"


@pytest.mark.parametrize(
    ("changes", "applies"),
    [
        ({"hosts": ("reviews",)}, True),
        ({"hosts": ("reviews.shop.svc.cluster.local",)}, True),
        ({"hosts": ("*.shop.svc.cluster.local",)}, True),
        ({"hosts": ("*",)}, True),
        ({"hosts": ("reviews.shop",)}, False),  # a name with a dot is used as written
        ({"hosts": ("ratings",)}, False),
        ({"gateways": ["mesh"]}, True),
        ({"gateways": ["ingress"]}, False),
        ({"exportTo": ["."]}, True),
        ({"exportTo": ["~"]}, False),
    ],
)
def test_which_services_a_virtual_service_is_for(changes, applies):
    table = program(subsets(), virtual_service({"name": "mine", **TO_V1}, **changes)).table(
        service(), 9080
    )
    assert (table.routes[0].name == "mine") is applies
    assert applies or table.routes[0].name == "default"


def test_only_near_namespaces_count():
    far = config(
        "VirtualService", "far", {"hosts": [REVIEWS.hostname], "http": [TO_V1]}, "elsewhere"
    )
    assert program(far).table(service(), 9080).routes[0].name == "default"


def test_several_objects_are_read_oldest_first():
    def named(name, created, path):
        rule = {"name": name, "match": [{"uri": {"prefix": path}}], **TO_V1}
        spec = {"hosts": ["reviews"], "http": [rule]}
        return config("VirtualService", name, spec, creationTimestamp=created)

    young, old = (
        named("young", "2026-02-01T00:00:00Z", "/"),
        named("old", "2026-01-01T00:00:00Z", "/a"),
    )
    routes = program(young, old).table(service(), 9080).routes
    assert [route.name for route in routes] == ["old", "young"]


def test_headers_are_edited_on_both_ways():
    rule = {
        "headers": {
            "request": {"set": {"X-A": "1"}, "add": {"x-b": "2"}, "remove": ["X-C"]},
            "response": {"remove": ["server"], "set": {"x-d": "%%"}},
        },
        "route": [
            {**to_subset("v1"), "headers": {"request": {"set": {"Host": "new", "x-a": "3"}}}}
        ],
    }
    asked = request(headers={"x-a": "0", "x-b": "0", "x-c": "0"})
    decided, asked = go([subsets(), virtual_service(rule)], asked)
    assert asked.headers.items == [
        ("x-a", "3"),
        ("x-b", "0"),
        ("x-b", "2"),
        ("x-envoy-original-host", "reviews:9080"),
    ]
    assert asked.authority == "new"
    response = Response(200, Headers([("server", "x")]))
    decided.edit(response)
    assert response.headers.items == [("x-d", "%")]


@pytest.mark.parametrize(
    ("match", "rewrite", "target"),
    [
        ({"uri": {"prefix": "/foo/"}}, {"uri": "/new/"}, "/new/bar?x=1"),
        ({"uri": {"prefix": "/foo"}}, {"uri": "/"}, "//bar?x=1"),
        ({"uri": {"exact": "/foo/bar"}}, {"uri": "/new"}, "/new?x=1"),
        ({"uri": {"regex": "/f.*"}}, {"uri": "/new"}, "/new?x=1"),
        ({}, {"uri": "/new/"}, "/new/foo/bar?x=1"),
        ({}, {"authority": "other"}, "/foo/bar?x=1"),
    ],
)
def test_rewrite(match, rewrite, target):
    rule = {"match": [match], "rewrite": rewrite, **TO_V1}
    _, asked = go([subsets(), virtual_service(rule)], request(target="/foo/bar?x=1"))
    assert asked.target == target
    assert asked.authority == rewrite.get("authority", "reviews:9080")
    assert asked.headers.get("x-envoy-original-path") == (
        "/foo/bar?x=1" if "uri" in rewrite else None
    )


@pytest.mark.parametrize(
    ("host", "port", "redirect", "location"),
    [
        ("b", 80, {"derivePort": "FROM_REQUEST_PORT"}, "http://b/foo?k=v"),
        ("b:80", 80, {"derivePort": "FROM_REQUEST_PORT"}, "http://b:80/foo?k=v"),
        ("b", 85, {"derivePort": "FROM_REQUEST_PORT"}, "http://b:85/foo?k=v"),
        ("b:85", 85, {"derivePort": "FROM_REQUEST_PORT"}, "http://b:85/foo?k=v"),
        ("b", 80, {"derivePort": "FROM_REQUEST_PORT", "scheme": "https"}, "https://b:80/foo?k=v"),
        ("b", 80, {"uri": "/new/path"}, "http://b/new/path?k=v"),
        ("b", 80, {"authority": "c", "port": 81}, "http://c:81/foo?k=v"),
    ],
)
def test_redirect(host, port, redirect, location):
    table = program(virtual_service({"redirect": redirect})).table(service(), 9080)
    action = table.routes[0].action
    assert isinstance(action, Redirect)
    from ambient.api.address import HostPort

    asked = request(target="/foo?k=v", host=host, local=HostPort("10.0.0.1", port))
    reply = action.reply(asked)
    assert (reply.status, dict(reply.headers)["location"]) == (301, location)


def test_direct_response_and_timeout():
    direct = {"directResponse": {"status": 418, "body": {"string": "tea"}}}
    reply = go([virtual_service(direct)])[0].reply
    assert (reply.status, reply.body) == (418, "tea")
    table = program(virtual_service({"timeout": "1m0.5s", **TO_V1})).table(service(), 9080)
    assert table.routes[0].timeout_s == 60.5


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"hosts": "reviews"}, "spec.hosts"),
        ({"hosts": ["reviews"], "http": {}}, "spec.http"),
        ({"hosts": ["reviews"], "http": ["x"]}, "spec.http[0]"),
        ({"hosts": ["reviews"], "http": [{"timeout": "soon", **TO_V1}]}, "spec.http[0].timeout"),
        (
            {"hosts": ["reviews"], "http": [{"fault": {"abort": {}}, **TO_V1}]},
            "spec.http[0].fault.abort.httpStatus",
        ),
        (
            {"hosts": ["reviews"], "http": [{"retries": {"retryOn": "never"}, **TO_V1}]},
            "spec.http[0].retries.retryOn",
        ),
        (
            {"hosts": ["reviews"], "http": [{"delegate": {"name": "x"}}]},
            "spec.http[0].delegate",
        ),
        (
            {"hosts": ["reviews"], "tls": [{"route": []}]},
            "spec.tls[0].route",
        ),
        (
            {"hosts": ["reviews"], "http": [{"redirect": {"redirectCode": 200}}]},
            "spec.http[0].redirect.redirectCode",
        ),
        (
            {"hosts": ["reviews"], "http": [{"directResponse": {"status": 99}}]},
            "spec.http[0].directResponse.status",
        ),
        (
            {"hosts": ["reviews"], "http": [{"match": [{"uri": {"glob": "x"}}], **TO_V1}]},
            "spec.http[0].match[0].uri.glob",
        ),
        (None, "spec"),
    ],
)
def test_problems_name_object_and_field(spec, field):
    problems = program(config("VirtualService", "bad", spec)).problems
    if spec is None:
        assert not problems
    else:
        assert [(p.object, p.field) for p in problems] == [("VirtualService/shop/bad", field)]


def test_an_update_replaces_only_what_changed():
    first = program(subsets(), virtual_service(TO_V1))
    second = first.changed([virtual_service({"route": [to_subset("v2")]})])
    third = second.changed([], ["VirtualService/shop/reviews"])
    kinds = [p.table(service(), 9080).routes[0].action for p in (first, second, third)]
    assert [a.backends[0].subset for a in kinds if isinstance(a, Forward)] == ["v1", "v2", ""]
    key = "DestinationRule/shop/reviews"
    assert first.objects[key] is third.objects[key]
    assert not isinstance(kinds[0], DirectResponse)
    assert Protocol.HTTP1


@pytest.mark.parametrize(
    ("rewrite", "target", "want"),
    [
        ({"match": "^/v[0-9]+/(.*)", "rewrite": "/\\1"}, "/v12/a/b?q", "/a/b?q"),
        ({"match": "/a", "rewrite": "/b"}, "/a/a/c", "/b/b/c"),  # every match
        ({"match": "x", "rewrite": "y"}, "/a", "/a"),
        ({"match": "/(a)/(b)", "rewrite": "/\\2/\\1"}, "/a/b", "/b/a"),
    ],
)
def test_rewrite_by_pattern(rewrite, target, want):
    rule = {"rewrite": {"uriRegexRewrite": rewrite}, **TO_V1}
    _, asked = go([subsets(), virtual_service(rule)], request(target=target))
    assert asked.target == want


@pytest.mark.parametrize(
    "rewrite", [{"match": "(", "rewrite": "/"}, {"match": "/a"}, {"match": "a", "rewrite": "\\1"}]
)
def test_a_pattern_that_cannot_be_used(rewrite):
    rule = {"rewrite": {"uriRegexRewrite": rewrite}, **TO_V1}
    decided, _ = go([subsets(), virtual_service(rule)])
    assert decided.reply.status == 500


def test_patterns_never_take_long():
    evil = {"match": [{"uri": {"regex": "(a|aa)+$"}}], **TO_V1}
    decided, _ = go([subsets(), virtual_service(evil)], request(target="/" + "a" * 5000 + "!"))
    assert decided.reply.status == 404


def test_everything_else_of_a_rule():
    rule = {
        "fault": {
            "delay": {"fixedDelay": "1s", "percentage": {"value": 100}},
            "abort": {"httpStatus": 418, "percentage": {"value": 100}},
        },
        "retries": {"attempts": 5, "retryOn": "5xx", "perTryTimeout": "1s"},
        "mirror": {"host": "ratings"},
        "mirrorPercentage": {"value": 50},
        "mirrors": [{"destination": {"host": "ratings", "port": {"number": 9080}}}],
        "corsPolicy": {"allowOrigins": [{"exact": "https://a"}]},
        **TO_V1,
    }
    decided, _ = go([subsets(), virtual_service(rule)])
    assert (decided.delay_s, decided.reply.status) == (1.0, 418)
    route = decided.route
    assert (route.retries.attempts, route.retries.per_try_s) == (5, 1.0)
    assert [(m.backend.service.hostname, m.share) for m in route.mirrors] == [
        ("ratings.shop.svc.cluster.local", 0.5),
        ("ratings.shop.svc.cluster.local", 1.0),
    ]
    assert route.cors is not None


def test_a_response_says_who_may_read_it():
    rule = {"corsPolicy": {"allowOrigins": [{"exact": "https://a"}]}, **TO_V1}
    objects = [subsets(), virtual_service(rule)]
    decided, _ = go(objects, request(headers={"origin": "https://a"}))
    response = Response(200, Headers())
    decided.edit(response)
    assert response.headers.items == [("access-control-allow-origin", "https://a")]
    decided, _ = go(objects, request(headers={"origin": "https://b"}))
    response = Response(200, Headers())
    decided.edit(response)
    assert not response.headers.items


def test_direct_response_of_bytes():
    direct = {"directResponse": {"status": 200, "body": {"bytes": "dGVh"}}}
    assert go([virtual_service(direct)])[0].reply.body == "tea"


@pytest.mark.parametrize(
    ("match", "claims", "found"),
    [
        ({"headers": {"@request.auth.claims.group": {"exact": "dev"}}}, {"group": "dev"}, True),
        (
            {"headers": {"@request.auth.claims.group": {"exact": "dev"}}},
            {"group": ["a", "dev"]},
            True,
        ),
        ({"headers": {"@request.auth.claims[a][b]": {"prefix": "x"}}}, {"a": {"b": "xy"}}, True),
        ({"headers": {"@request.auth.claims.group": {"exact": "dev"}}}, None, False),
        ({"withoutHeaders": {"@request.auth.claims.group": {"exact": "dev"}}}, None, True),
        (
            {"withoutHeaders": {"@request.auth.claims.group": {"exact": "dev"}}},
            {"group": "dev"},
            False,
        ),
    ],
)
def test_claims(match, claims, found):
    asked = request()
    asked.claims = claims
    decided, _ = go([subsets(), virtual_service({"match": [match], **TO_V1})], asked)
    assert (decided.upstream is not None) is found
