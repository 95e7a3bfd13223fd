"""Endpoints that admit the waypoint for its clients: who of them gets there."""

from ipaddress import ip_address

import pytest

from ambient.api.address import HostPort, NetworkAddress
from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.spiffe import Identity
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.api.workload import Workload
from ambient.state.core.mesh import MeshState
from waypoint.core.admission import admitted
from waypoint.core.authz import Verdict
from waypoint.core.dispatch import Self
from waypoint.core.host import Target
from waypoint.core.message import Peer
from waypoint.core.place import Place

PLACE = Place(namespace="shop", gateway="wp")
OWN = Self(PLACE, frozenset({NetworkAddress("", ip_address("10.0.0.50"))}))
ADMISSION = "istio_allow_waypoint_shop_wp"


def policy(name, *accounts, action=Action.ALLOW):
    names = tuple(
        StringMatch(MatchKind.EXACT, f"cluster.local/ns/shop/sa/{account}") for account in accounts
    )
    return Authorization(
        name=name,
        namespace="shop",
        scope=Scope.WORKLOAD_SELECTOR,
        action=action,
        groups=(((Match(principals=names),),),),
    )


def reached(account, *policies):
    """The endpoint, or the refusal's reason, for a client with this account (of namespace shop)."""
    namespace, _, account = account.rpartition("/")
    workload = Workload(
        uid="u",
        name="api",
        namespace="shop",
        addresses=(ip_address("10.0.0.1"),),
        authorization_policies=tuple(one.key for one in policies),
    )
    state = MeshState()
    state.apply(ADDRESS_TYPE, {"u": workload})
    state.apply(AUTHORIZATION_TYPE, {one.key: one for one in policies})
    targets = (Target(workload, HostPort("10.0.0.1", 8080)),)
    peer = Peer(Identity("cluster.local", namespace or "shop", account), ip_address("10.0.0.9"))
    found = admitted(targets, state, peer, OWN)
    return found.reason if isinstance(found, Verdict) else found == targets


WEB_ONLY = policy("web-only", "web")
OWN_NAMESPACE = Authorization(
    name="web-only",
    namespace="shop",
    scope=Scope.WORKLOAD_SELECTOR,
    action=Action.ALLOW,
    groups=(((Match(namespaces=(StringMatch(MatchKind.EXACT, "shop"),)),),),),
)
ADMITS = policy(ADMISSION, "wp")
REFUSAL = "L4 policies of the endpoints: no ALLOW policy matched (of shop/web-only)"


@pytest.mark.parametrize(
    ("account", "policies", "want"),
    [
        ("web", (), True),
        ("web", (WEB_ONLY, ADMITS), True),
        ("evil", (WEB_ONLY, ADMITS), REFUSAL),
        # Nobody admits us for our clients: the endpoint's own tunnel judges.
        ("evil", (WEB_ONLY,), True),
        # A user's policy that names the waypoint lets everybody through it.
        ("evil", (policy("web-only", "wp"), ADMITS), True),
        # One that names the waypoint's namespace means clients.
        ("web", (OWN_NAMESPACE, ADMITS), True),
        ("other/evil", (OWN_NAMESPACE, ADMITS), REFUSAL),
        ("web", (WEB_ONLY, ADMITS, policy("d", "web", action=Action.DENY)),
         "L4 policies of the endpoints: denied by shop/d"),
    ],
)  # fmt: skip
def test_pain_21_admitting_the_waypoint_admits_no_client_whom_the_policy_refuses(
    account, policies, want
):
    assert reached(account, *policies) == want


def test_endpoints_that_refuse_are_left_out_while_others_are_there():
    state = MeshState()
    targets = []
    for number, names in enumerate([(), ("shop/web-only", f"shop/{ADMISSION}")]):
        ip = ip_address(f"10.0.0.{number}")
        workload = Workload(
            uid=f"u{number}", name="api", namespace="shop", addresses=(ip,),
            authorization_policies=names,
        )  # fmt: skip
        state.apply(ADDRESS_TYPE, {workload.uid: workload})
        targets.append(Target(workload, HostPort(str(ip), 8080)))
    state.apply(AUTHORIZATION_TYPE, {one.key: one for one in (WEB_ONLY, ADMITS)})
    peer = Peer(Identity("cluster.local", "shop", "evil"), ip_address("10.0.0.9"))
    assert admitted(tuple(targets), state, peer, OWN) == (targets[0],)
