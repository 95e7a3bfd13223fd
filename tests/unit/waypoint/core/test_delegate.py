"""Root and delegate: which pairs of matches agree, and what is inherited."""

from __future__ import annotations

import pytest

from tests.unit.waypoint.sample import (
    config,
    program,
    request,
    service,
    subsets,
    to_subset,
    virtual_service,
)

TO_V1 = {"route": [to_subset("v1")]}
TO_V2 = {"route": [to_subset("v2")]}


def delegate(*rules, name="inner", namespace="shop", **spec):
    return config("VirtualService", name, {"http": list(rules), **spec}, namespace)


def root(match=None, namespace=None, **rule):
    target = {"name": "inner", **({"namespace": namespace} if namespace else {})}
    matches = {"match": [match]} if match else {}
    return virtual_service({"name": "outer", "delegate": target, **matches, **rule})


def routes(*objects):
    return program(subsets(), *objects).table(service(), 9080).routes


def subset_of(request, *objects):
    found = program(subsets(), *objects).table(service(), 9080).select(request)
    return None if found is None else found.action.backends[0].subset


def test_both_conditions_hold():
    objects = [
        root({"uri": {"prefix": "/a"}, "headers": {"x": {"exact": "1"}}}),
        delegate(
            {"match": [{"uri": {"prefix": "/a/b"}}], **TO_V1},
            {"match": [{"headers": {"y": {"exact": "2"}}}], **TO_V2},
        ),
    ]
    x, both = {"x": "1"}, {"x": "1", "y": "2"}
    assert subset_of(request(target="/a/b", headers=x), *objects) == "v1"
    assert subset_of(request(target="/a", headers=both), *objects) == "v2"
    assert subset_of(request(target="/a", headers=x), *objects) is None
    assert subset_of(request(target="/a/b"), *objects) is None


@pytest.mark.parametrize(
    ("outer", "inner", "agree"),
    [
        ({"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/a/b"}}, True),
        ({"uri": {"prefix": "/a"}}, {"uri": {"exact": "/a"}}, True),
        ({"uri": {"prefix": "/a/b"}}, {"uri": {"prefix": "/a"}}, False),
        ({"uri": {"prefix": "/a"}}, {"uri": {"regex": "/a.*"}}, False),
        ({"uri": {"regex": "/a.*"}}, {"uri": {"exact": "/a"}}, False),
        ({"uri": {"exact": "/a"}}, {"uri": {"exact": "/a"}}, True),
        ({"uri": {"exact": "/a"}}, {"uri": {"prefix": "/a"}}, False),
        ({"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/a"}, "ignoreUriCase": True}, False),
        ({"method": {"exact": "GET"}}, {"method": {"exact": "PUT"}}, False),
        ({"port": 9080}, {}, True),
        ({"port": 9080}, {"port": 1}, False),
        ({"sourceNamespace": "a"}, {"sourceNamespace": "b"}, False),
        ({"headers": {"x": {"exact": "1"}}}, {"headers": {"x": {"exact": "2"}}}, False),
        ({"headers": {"x": {"prefix": "1"}}}, {"headers": {"x": {"exact": "12"}}}, True),
    ],
)
def test_pairs(outer, inner, agree):
    found = routes(root(outer), delegate({"match": [inner], **TO_V1}))
    assert bool(found[0].predicates) or found[0].name == "outer" or not agree
    assert (found[0].source == "default") is not agree


def test_what_the_delegate_leaves_open_is_the_roots():
    objects = [
        root(timeout="5s", rewrite={"authority": "x"}, retries={"attempts": 9}),
        delegate({"name": "one", "timeout": "1s", **TO_V1}, name="inner"),
    ]
    (found,) = routes(*objects)
    assert (found.name, found.timeout_s, found.retries.attempts) == ("outer-one", 1.0, 9)
    assert found.filters
    assert found.source == (
        "VirtualService/shop/reviews http[0] -> VirtualService/shop/inner http[0]"
    )


def test_short_names_mean_the_delegates_namespace():
    other = delegate({"route": [{"destination": {"host": "api"}}]}, namespace="far")
    (found,) = routes(root(namespace="far"), other)
    assert found.action.backends[0].service.hostname == "api.far.svc.cluster.local"


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([root()], "there is no VirtualService shop/inner"),
        ([root(), delegate(TO_V1, hosts=["x"])], "has hosts of its own"),
        ([root(namespace="far"), delegate(TO_V1, namespace="far", exportTo=["."])], "not exported"),
        ([root(route=[to_subset("v1")]), delegate(TO_V1)], "excludes route"),
        ([root(), delegate({"delegate": {"name": "x"}})], "cannot delegate"),
        (
            [
                root({"uri": {"prefix": "/a"}}),
                delegate({"match": [{"uri": {"prefix": "/b"}}], **TO_V1}),
            ],
            "no match of it agrees",
        ),
    ],
)
def test_what_cannot_be_used_is_said(objects, reason):
    compiled = program(subsets(), *objects)
    assert any(reason in problem.reason for problem in compiled.problems)
    assert compiled.table(service(), 9080).routes[0].source == "default"


def test_a_delegate_that_changes_changes_its_root():
    first = program(subsets(), root(), delegate(TO_V1))
    second = first.changed([delegate(TO_V2)])
    third = second.changed([], ["VirtualService/shop/inner"])
    fourth = third.changed([delegate(TO_V1)])
    found = [
        p.table(service(), 9080).routes[0].action.backends[0]
        for p in (first, second, third, fourth)
    ]
    assert [backend.subset for backend in found] == ["v1", "v2", "", "v1"]


def test_a_rule_behind_a_catch_all_of_the_delegate_is_not_reached():
    objects = [
        virtual_service({"delegate": {"name": "inner"}}, {"name": "behind", **TO_V2}),
        delegate(TO_V1),
    ]
    assert len(routes(*objects)) == 1
