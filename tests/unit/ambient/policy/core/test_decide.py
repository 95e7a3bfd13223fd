"""L4 decisions, one row for each sentence of the specification."""

from ipaddress import ip_address, ip_network

import pytest

from ambient.api.policy import (
    Action,
    Authorization,
    Match,
    MatchKind,
    Scope,
    ServiceAccountMatch,
    StringMatch,
)
from ambient.api.spiffe import Identity
from ambient.policy.core.decide import Connection, decide
from ambient.policy.core.select import select

WEB = Identity("cluster.local", "shop", "web")
ANY = StringMatch(MatchKind.PRESENCE)
EMPTY_GROUP = ((),)


def exact(text):
    return StringMatch(MatchKind.EXACT, text)


def prefix(text):
    return StringMatch(MatchKind.PREFIX, text)


def suffix(text):
    return StringMatch(MatchKind.SUFFIX, text)


def connection(source=WEB, source_ip="10.0.0.1", destination_ip="10.0.9.9", port=80):
    return Connection(source, ip_address(source_ip), ip_address(destination_ip), port)


def policy(name, action, groups, *, scope=Scope.NAMESPACE, namespace="shop", dry_run=False):
    return Authorization(
        name=name, namespace=namespace, scope=scope, action=action, groups=groups, dry_run=dry_run
    )


def one(match: Match):
    """A policy's groups with just this match."""
    return (((match,),),)


def allow(match=None, name="allow", **fields):
    return policy(name, Action.ALLOW, EMPTY_GROUP if match is None else one(match), **fields)


def deny(match=None, name="deny", **fields):
    return policy(name, Action.DENY, EMPTY_GROUP if match is None else one(match), **fields)


def verdict(policies, conn=None, names=()):
    return decide(select(policies, "shop", names), conn or connection())


FROM_WEB = Match(principals=(exact("cluster.local/ns/shop/sa/web"),))
FROM_API = Match(principals=(exact("cluster.local/ns/shop/sa/api"),))


@pytest.mark.parametrize(
    ("policies", "allowed", "reason"),
    [
        ([], True, "no policy applies"),
        ([allow(FROM_WEB)], True, "allowed by shop/allow"),
        ([allow(FROM_API)], False, "no ALLOW policy matched (of shop/allow)"),
        ([deny(FROM_WEB)], False, "denied by shop/deny"),
        ([deny(FROM_API)], True, "no policy applies"),
        ([allow(FROM_WEB), deny(FROM_WEB)], False, "denied by shop/deny"),
        ([allow(FROM_API, "a"), allow(FROM_WEB, "b")], True, "allowed by shop/b"),
        (
            [allow(FROM_API, "b"), allow(FROM_API, "a")],
            False,
            "no ALLOW policy matched (of shop/a, shop/b)",
        ),
        ([policy("none", Action.ALLOW, ())], False, "no ALLOW policy matched (of shop/none)"),
        ([policy("none", Action.DENY, ())], True, "no policy applies"),
        ([allow()], True, "allowed by shop/allow"),  # a group without clauses: everything
        ([deny()], False, "denied by shop/deny"),
        ([deny(Match())], True, "no policy applies"),  # an empty match: nothing
        ([allow(Match())], False, "no ALLOW policy matched (of shop/allow)"),
    ],
)
def test_order_of_evaluation(policies, allowed, reason):
    answer = verdict(policies)
    assert (answer.allowed, answer.reason) == (allowed, reason)


def test_a_long_list_of_missed_policies_is_cut():
    answer = verdict([allow(FROM_API, f"p{n}") for n in range(8)])
    assert answer.reason.endswith("shop/p4 and 3 more)")


@pytest.mark.parametrize(
    ("scope", "namespace", "names", "applies"),
    [
        (Scope.GLOBAL, "istio-system", (), True),
        (Scope.NAMESPACE, "shop", (), True),
        (Scope.NAMESPACE, "bank", (), False),
        (Scope.NAMESPACE, "bank", ("bank/deny",), False),  # naming it does not widen it
        (Scope.WORKLOAD_SELECTOR, "shop", (), False),
        (Scope.WORKLOAD_SELECTOR, "shop", ("shop/deny",), True),
        (Scope.WORKLOAD_SELECTOR, "istio-system", ("istio-system/deny",), True),
    ],
)
def test_scope(scope, namespace, names, applies):
    answer = verdict([deny(scope=scope, namespace=namespace)], names=names)
    assert answer.allowed is not applies


NOBODY = connection(source=None)


@pytest.mark.parametrize(
    ("match", "conn", "hits"),
    [
        # principals
        (Match(principals=(exact("cluster.local/ns/shop/sa/web"),)), connection(), True),
        (Match(principals=(exact("spiffe://cluster.local/ns/shop/sa/web"),)), connection(), False),
        (Match(principals=(prefix("cluster.local/ns/shop/"),)), connection(), True),
        (Match(principals=(prefix("cluster.local/ns/bank/"),)), connection(), False),
        (Match(principals=(suffix("/sa/web"),)), connection(), True),
        (Match(principals=(suffix("/sa/api"),)), connection(), False),
        (Match(principals=(ANY,)), connection(), True),
        (Match(principals=(ANY,)), NOBODY, False),
        (Match(principals=(prefix(""),)), NOBODY, False),
        (Match(not_principals=(ANY,)), NOBODY, True),
        (Match(not_principals=(ANY,)), connection(), False),
        (Match(principals=(exact("x"), suffix("web"))), connection(), True),  # values are OR-ed
        (Match(principals=(ANY,), not_principals=(suffix("web"),)), connection(), False),
        # namespaces
        (Match(namespaces=(exact("shop"),)), connection(), True),
        (Match(namespaces=(exact("bank"),)), connection(), False),
        (Match(namespaces=(ANY,)), NOBODY, False),
        (Match(not_namespaces=(exact("shop"),)), NOBODY, True),
        (Match(not_namespaces=(exact("shop"),)), connection(), False),
        # service accounts: the trust domain does not count
        (Match(service_accounts=(ServiceAccountMatch("shop", "web"),)), connection(), True),
        (
            Match(service_accounts=(ServiceAccountMatch("shop", "web"),)),
            connection(Identity("other", "shop", "web")),
            True,
        ),
        (Match(service_accounts=(ServiceAccountMatch("bank", "web"),)), connection(), False),
        (Match(service_accounts=(ServiceAccountMatch("shop", "web"),)), NOBODY, False),
        (Match(not_service_accounts=(ServiceAccountMatch("shop", "web"),)), NOBODY, True),
        # addresses
        (Match(source_ips=(ip_network("10.0.0.1/32"),)), connection(), True),
        (Match(source_ips=(ip_network("10.0.0.2/32"),)), connection(), False),
        (Match(source_ips=(ip_network("10.0.0.0/8"),)), connection(), True),
        (Match(source_ips=(ip_network("10.0.0.0/31"),)), connection(source_ip="10.0.0.2"), False),
        (Match(source_ips=(ip_network("0.0.0.0/0"),)), connection(source_ip="fd00::1"), False),
        (Match(source_ips=(ip_network("::/0"),)), connection(), False),
        (Match(source_ips=(ip_network("fd00::/8"),)), connection(source_ip="fd00::1"), True),
        (Match(not_source_ips=(ip_network("10.0.0.0/8"),)), connection(), False),
        (Match(destination_ips=(ip_network("10.0.9.0/24"),)), connection(), True),
        (Match(not_destination_ips=(ip_network("10.0.9.9/32"),)), connection(), False),
        # ports
        (Match(destination_ports=(80, 443)), connection(), True),
        (Match(destination_ports=(443,)), connection(), False),
        (Match(not_destination_ports=(80,)), connection(), False),
        (Match(not_destination_ports=(443,)), connection(), True),
        # fields are AND-ed
        (Match(destination_ports=(80,), namespaces=(exact("shop"),)), connection(), True),
        (Match(destination_ports=(80,), namespaces=(exact("bank"),)), connection(), False),
    ],
)
def test_a_match(match, conn, hits):
    assert verdict([deny(match)], conn).allowed is not hits
    assert verdict([allow(match)], conn).allowed is hits


HIT, MISS = Match(destination_ports=(80,)), Match(destination_ports=(1,))


@pytest.mark.parametrize(
    ("groups", "hits"),
    [
        ((), False),
        (((),), True),
        ((((),),), True),  # a clause without matches has nothing to say against
        ((((HIT,),),), True),
        ((((MISS, HIT),),), True),  # matches are OR-ed
        ((((MISS,),),), False),
        ((((HIT,), (MISS,)),), False),  # clauses are AND-ed
        ((((HIT,), (HIT,)),), True),
        ((((MISS,),), ((HIT,),)), True),  # groups are OR-ed
    ],
)
def test_groups_clauses_and_matches(groups, hits):
    assert verdict([policy("p", Action.DENY, groups)]).allowed is not hits


@pytest.mark.parametrize(
    ("source", "port", "allowed"),
    [(WEB, 80, True), (None, 80, False), (None, 9090, True)],
)
def test_strict_mutual_tls_with_a_permissive_port(source, port, allowed):
    strict = ((Match(not_principals=(ANY,)),), (Match(not_destination_ports=(9090,)),))
    policies = [policy("converted", Action.DENY, (strict,))]
    assert verdict(policies, connection(source, port=port)).allowed is allowed


@pytest.mark.parametrize(
    ("policies", "allowed", "would_deny"),
    [
        ([deny(dry_run=True)], True, ("shop/deny",)),
        ([deny(FROM_API, dry_run=True)], True, ()),
        ([allow(FROM_API, dry_run=True)], True, ("shop/allow",)),
        ([allow(FROM_WEB, dry_run=True)], True, ()),
        ([allow(FROM_API, "dry", dry_run=True), allow(FROM_WEB)], True, ()),
        ([deny(dry_run=True), allow(FROM_API)], False, ("shop/deny",)),
        ([allow(FROM_WEB, dry_run=True), allow(FROM_API, "real")], False, ()),
    ],
)
def test_dry_run_is_reported_and_changes_nothing(policies, allowed, would_deny):
    answer = verdict(policies)
    assert (answer.allowed, answer.dry_run_denials) == (allowed, would_deny)
