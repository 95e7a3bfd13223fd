"""Who may come in, and to which port: one row per sentence of the specification."""

from ipaddress import ip_address

import pytest

from ambient.api.policy import Action, Authorization, Match, MatchKind, Scope, StringMatch
from ambient.api.service import Visibility, WeightedWaypoint
from ambient.api.spiffe import Identity
from ambient.api.workload import ApplicationTunnel, ApplicationTunnelProtocol
from tests.unit.ztunnel.core.mesh_builder import at, mesh, service, waypoint, workload
from ztunnel.core.admit import (
    Caller,
    Denial,
    Permit,
    admit_connect,
    admit_plaintext,
    guess_service,
    judge_again,
)

WEB = Identity("cluster.local", "shop", "web")
POD = workload("api", "10.0.0.2", services={"api.example": {80: 8080}})
API = service("api.example", "10.96.0.2")
LOCAL = at("10.0.0.2:15008")
ANY = StringMatch(MatchKind.PRESENCE)


def policy(action, *matches, name="p"):
    return Authorization(
        name=name,
        namespace="shop",
        scope=Scope.NAMESPACE,
        action=action,
        groups=((tuple(matches),),),
    )


def principal(identity):
    return Match(principals=(StringMatch(MatchKind.EXACT, identity.principal),))


STRICT = policy(Action.DENY, Match(not_principals=(ANY,)), name="strict")


def connect(authority, *things, pod=POD, local=LOCAL, identity=WEB, **more):
    caller = Caller(identity=identity, ip=ip_address("10.0.0.1"), authority=authority)
    return admit_connect(mesh(pod, *things), pod, caller, local, **more)


def sandwiched(protocol, port=15088, **more):
    """A waypoint that speaks no HBONE: its tunnel does."""
    return workload(
        *("api", "10.0.0.2", "fd00::2"),
        application_tunnel=ApplicationTunnel(protocol, port),
        **more,
    )


TUNNELLED = sandwiched(ApplicationTunnelProtocol.NONE)
PROXIED = sandwiched(ApplicationTunnelProtocol.PROXY, services={"wp.example": {}})
WAYPOINT = workload("wp", "10.0.0.2", services={"wp.example": {15008: 15008}})
WAYPOINT_SERVICE = service("wp.example", "10.96.0.9", port_map={15008: 15008})

PERMITTED = {
    "the pod's own address": ("10.0.0.2:8080", [], POD, "10.0.0.2:8080"),
    "a service of the pod by name": ("api.example:80", [API], POD, "10.0.0.2:8080"),
    "a named port by the endpoint's own number": (
        "api.example:80",
        [service("api.example", "10.96.0.2", port_map={80: 0})],
        POD,
        "10.0.0.2:8080",
    ),
    "an application tunnel replaces the port": ("10.0.0.2:80", [], TUNNELLED, "10.0.0.2:15088"),
    "an application tunnel takes any address": ("10.9.9.9:80", [], TUNNELLED, "10.0.0.2:15088"),
    "a waypoint is asked for a service that it fronts": (
        "10.96.0.2:80",
        [
            service("api.example", "10.96.0.2", waypoint=waypoint("shop/wp.example")),
            WAYPOINT_SERVICE,
        ],
        WAYPOINT,
        "10.0.0.2:80",
    ),
    "a waypoint pod is asked for a workload that it fronts": (
        "10.0.0.7:80",
        [workload("w", "10.0.0.7", waypoint=waypoint("10.0.0.2"))],
        WAYPOINT,
        "10.0.0.2:80",
    ),
    "a waypoint is asked for a service that it fronts with others": (
        "10.96.0.2:80",
        [
            service(
                *("api.example", "10.96.0.2"),
                weighted_waypoints=(WeightedWaypoint(waypoint("shop/wp.example"), 1),),
            ),
            WAYPOINT_SERVICE,
        ],
        WAYPOINT,
        "10.0.0.2:80",
    ),
    "an ALLOW policy that names the caller": (
        *("10.0.0.2:8080", [policy(Action.ALLOW, principal(WEB))], POD),
        "10.0.0.2:8080",
    ),
    "STRICT and an identity": ("10.0.0.2:8080", [STRICT], POD, "10.0.0.2:8080"),
}


@pytest.mark.parametrize("case", PERMITTED.values(), ids=PERMITTED)
def test_permitted(case):
    authority, things, pod, upstream = case
    decision = connect(authority, *things, pod=pod)
    assert isinstance(decision, Permit), decision
    assert str(decision.upstream) == upstream


OTHER = Identity("cluster.local", "shop", "other")
REFUSED = {
    "no port": ("10.0.0.2", [], 400, "has no port"),
    "no number": ("10.0.0.2:http", [], 400, "bad port"),
    "another pod's address": ("10.0.0.3:80", [], 400, "ip mismatch: 10.0.0.3 != 10.0.0.2"),
    "a service without us as waypoint": ("10.96.0.2:80", [API], 400, "ip mismatch"),
    "an unknown name": ("gone.example:80", [API], 503, "unknown service gone.example"),
    "a service port that leads nowhere": ("api.example:81", [API], 503, "cannot resolve port"),
    "ourselves": ("10.0.0.2:15006", [], 503, "recursive call"),
    "another pod of the same service": (
        "10.0.0.3:80",
        [API, workload("api2", "10.0.0.3", services={"api.example": {80: 8080}})],
        *(400, "ip mismatch: 10.0.0.3 != 10.0.0.2"),
    ),
    "HBONE inside HBONE, to ourselves": ("10.0.0.2:15008", [], 503, "recursive call"),
    "a name that only another namespace sees": (
        "hidden.example:80",
        [
            service(
                *("hidden.example", "10.96.0.8"),
                namespace="other",
                visibility=Visibility.NAMESPACE,
            )
        ],
        *(503, "unknown service hidden.example"),
    ),
    "a DENY policy": (
        *("10.0.0.2:8080", [policy(Action.DENY, principal(WEB))]),
        *(401, "denied by shop/p"),
    ),
    "only ALLOW policies for others": (
        *("10.0.0.2:8080", [policy(Action.ALLOW, principal(OTHER))]),
        *(401, "no ALLOW policy matched (of shop/p)"),
    ),
    "a DENY for the target port": (
        *("api.example:80", [API, policy(Action.DENY, Match(destination_ports=(8080,)))]),
        *(401, "denied by shop/p"),
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case):
    authority, things, status, reason = case
    decision = connect(authority, *things)
    assert isinstance(decision, Denial), decision
    assert (decision.status, reason in decision.reason) == (status, True), decision


WP = service("wp.example", "10.96.0.9", port_map={})


@pytest.mark.parametrize(
    ("authority", "localhost", "upstream", "proxied"),
    [
        ("10.96.0.2:80", True, "127.0.0.1:15088", "10.96.0.2:80"),
        ("10.96.0.2:80", False, "10.0.0.2:15088", "10.96.0.2:80"),
        ("[fd00::7]:80", True, "127.0.0.1:15088", "[fd00::7]:80"),
        ("wp.example:443", True, "127.0.0.1:15088", "10.96.0.9:443"),
    ],
)
def test_an_application_tunnel_with_proxy_headers(authority, localhost, upstream, proxied):
    found = connect(authority, WP, pod=PROXIED, localhost_tunnel=localhost)
    assert (str(found.upstream), str(found.proxied)) == (upstream, proxied)
    assert found.keep_source is not localhost
    # The policies judge what the pod is asked for, not by which door the application is reached.
    assert (str(found.connection.destination_ip), found.connection.destination_port) == (
        "10.0.0.2",
        15088,
    )


def test_an_application_tunnel_over_ipv6_stays_there():
    found = connect("[fd00::2]:80", pod=PROXIED, local=at("[fd00::2]:15008"))
    assert found.upstream == at("[::1]:15088")


def test_a_proxy_header_needs_an_address_to_name():
    found = connect("wp.example:80", service("wp.example", port_map={}), pod=PROXIED)
    assert (found.status, found.service.hostname) == (503, "wp.example")
    assert "no address that a PROXY header could name" in found.reason


def test_policies_judge_an_application_tunnel_first():
    found = connect("10.96.0.2:80", policy(Action.DENY, principal(WEB)), pod=PROXIED)
    assert (found.status, found.verdict.policy) == (401, "shop/p")


NO_IDENTITY = Match(not_principals=(ANY,))
EXCEPT_9090 = Authorization(
    name="strict",
    namespace="shop",
    scope=Scope.NAMESPACE,
    action=Action.DENY,
    groups=(((NO_IDENTITY,), (Match(not_destination_ports=(9090,)),)),),
)


@pytest.mark.parametrize(("port", "kind"), [(9090, Permit), (8080, Denial)])
def test_strict_with_a_port_as_exception(port, kind):
    assert isinstance(plain(f"10.0.0.2:{port}", EXCEPT_9090), kind)


def test_an_unproven_or_foreign_caller_is_refused():
    assert connect("10.0.0.2:80", identity=None).status == 401
    foreign = Identity("example.org", "shop", "web")
    assert "trust domain" in connect("10.0.0.2:80", identity=foreign).reason


def plain(destination, *things):
    return admit_plaintext(mesh(POD, *things), POD, ip_address("10.0.0.1"), at(destination))


def test_plaintext_is_permissive_until_a_policy_wants_an_identity():
    assert plain("10.0.0.2:8080").upstream == at("10.0.0.2:8080")
    denial = plain("10.0.0.2:8080", STRICT)
    assert (denial.status, denial.verdict.policy) == (401, "shop/strict")
    assert plain("10.0.0.2:15008").status == 503


def test_a_live_connection_is_judged_by_the_policies_of_now():
    permit = plain("10.0.0.2:8080")
    verdict = judge_again(mesh(POD, STRICT), POD, permit.connection)
    assert not verdict.allowed
    assert judge_again(mesh(POD), POD, permit.connection).allowed


def test_the_service_is_the_one_named_else_the_first_with_the_port():
    pod = workload("p", "10.0.0.2", services={"a.example": {80: 8080}, "b.example": {80: 8080}})
    state = mesh(pod, service("a.example", "10.96.0.1"), service("b.example", "10.96.0.2"))
    assert guess_service(state, pod, 8080, "b.example").hostname == "b.example"
    assert guess_service(state, pod, 8080, "c.example").hostname == "a.example"
    assert guess_service(state, pod, 9999, "") is None
