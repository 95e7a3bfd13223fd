"""The sentences behind ``ambientctl why``."""

from ipaddress import ip_address

import pytest

from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.spiffe import Identity
from ambient.policy.core.decide import Connection
from ambient.policy.core.explain import explain
from ambient.policy.core.select import select

CONNECTION = Connection(
    Identity("cluster.local", "shop", "web"), ip_address("10.0.0.1"), ip_address("10.0.0.2"), 80
)
FROM_API = Match(principals=(StringMatch(MatchKind.SUFFIX, "/api"),))
PORT_80 = Match(destination_ports=(80,))


def policy(*groups, name="p", action=Action.ALLOW, dry_run=False):
    return Authorization(
        name=name,
        namespace="shop",
        scope=Scope.NAMESPACE,
        action=action,
        groups=groups,
        dry_run=dry_run,
    )


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (policy(((PORT_80,),)), "ALLOW shop/p: rule 1 matched"),
        (policy(((FROM_API,),), ((PORT_80,),)), "ALLOW shop/p: rule 2 matched"),
        (policy(), "ALLOW shop/p: has no rules, so it never matches"),
        (
            policy(((Match(),),)),
            "ALLOW shop/p: rule 1: a match without conditions never matches",
        ),
        (
            policy(((PORT_80,), (FROM_API,)), action=Action.DENY),
            "DENY shop/p: rule 1: principal is cluster.local/ns/shop/sa/web, must be */api",
        ),
        (
            policy(((Match(not_destination_ports=(80, 81)),),), dry_run=True),
            "ALLOW shop/p (dry run): rule 1: destination port is 80, must not be 80, 81",
        ),
        # of two alternatives the closer one is told
        (
            policy(((Match(destination_ports=(1,), namespaces=FROM_API.principals), FROM_API),)),
            "ALLOW shop/p: rule 1: principal is cluster.local/ns/shop/sa/web, must be */api",
        ),
        (
            policy(((Match(), FROM_API),)),
            "ALLOW shop/p: rule 1: principal is cluster.local/ns/shop/sa/web, must be */api",
        ),
    ],
)
def test_one_policy(subject, text):
    assert [str(e) for e in explain([subject], CONNECTION)] == [text]


def test_a_compiled_set_is_explained_in_the_order_of_evaluation():
    policies = [policy(((PORT_80,),), name="a"), policy(name="d", action=Action.DENY)]
    told = explain(select(policies, "shop", ()), CONNECTION)
    assert [(e.policy, e.matched, e.rule) for e in told] == [
        ("shop/d", False, 0),
        ("shop/a", True, 1),
    ]


def test_a_miss_says_where_it_is():
    (told,) = explain([policy(((PORT_80,), (FROM_API,)))], CONNECTION)
    (miss,) = told.misses
    assert (miss.rule, miss.clause, miss.field) == (1, 2, "principals")
