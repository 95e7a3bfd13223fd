"""GRPCRoute: methods are paths, and the more specific one wins."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.core.test_virtual_service import go
from tests.unit.waypoint.sample import config, program, request, service

PARENT = {"group": "", "kind": "Service", "name": "reviews"}
TO = {"backendRefs": [{"name": "ratings", "port": 9080}]}


def route(*rules, name="g"):
    return config("GRPCRoute", name, {"parentRefs": [PARENT], "rules": list(rules)})


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ({}, "/any/thing", True),
        ({"service": "a.B", "method": "Get"}, "/a.B/Get", True),
        ({"service": "a.B", "method": "Get"}, "/a.B/GetAll", False),
        ({"service": "a.B"}, "/a.B/Get", True),
        ({"service": "a.B"}, "/a.BC/Get", False),
        ({"method": "Get"}, "/x.Y/Get", True),
        ({"method": "Get"}, "/Get", False),
        ({"method": "Get"}, "/a/b/Get", False),
        ({"type": "RegularExpression", "service": "a\\..*"}, "/a.B/Get", True),
        ({"type": "RegularExpression", "method": "Get.*"}, "/a.B/GetAll", True),
        ({"type": "RegularExpression", "service": "b"}, "/a.B/Get", False),
    ],
)
def test_methods(method, path, found):
    decided, _ = go([route({"matches": [{"method": method}], **TO})], request(target=path))
    assert (decided.route is not None) is found


def test_headers_and_order():
    rules = [
        {"matches": [{}], **TO},
        {"matches": [{"method": {"service": "a.B"}}], **TO},
        {"matches": [{"method": {"service": "a.B", "method": "Get"}}], **TO},
        {"matches": [{"headers": [{"name": "X-Env", "value": "test"}]}], **TO},
    ]

    def rule_of(**facts):
        return go([route(*rules)], request(**facts))[0].route.name

    assert rule_of(target="/a.B/Get") == "shop.g.2"
    assert rule_of(target="/a.B/List") == "shop.g.1"
    assert rule_of(target="/c.D/List") == "shop.g.0"
    assert rule_of(target="/c.D/List", headers={"x-env": "test"}) == "shop.g.3"


def test_filters_that_grpc_does_not_have():
    rule = {"filters": [{"type": "RequestRedirect", "requestRedirect": {}}], **TO}
    compiled = program(route(rule))
    assert [p.field for p in compiled.problems] == ["spec.rules[0].filters[0]"]
    assert compiled.table(service(), 9080).routes[0].action.reply.status == 500
