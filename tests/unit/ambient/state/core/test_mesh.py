"""The mesh state: look-ups, and that the order of updates does not matter."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambient.api.address import NetworkAddress
from ambient.api.policy import Action, Authorization, Scope
from ambient.api.service import AddressRange, NamespacedHostname, Port, Service, Visibility
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE, CONFIG_TYPE
from ambient.api.workload import NetworkMode, TunnelProtocol, Workload, WorkloadStatus
from ambient.state.core.mesh import MeshState

HTTP = (Port(80, 8080),)


def at(ip: str, network: str = "") -> NetworkAddress:
    return NetworkAddress(network, ip_address(ip))


def pod(name, ip="10.0.0.1", *, namespace="shop", services=(), **fields) -> Workload:
    return Workload(
        uid=f"K//Pod/{namespace}/{name}",
        name=name,
        namespace=namespace,
        addresses=(ip_address(ip),),
        services={NamespacedHostname.parse(s): HTTP for s in services},
        **fields,
    )


def service(name, *ips, namespace="shop", hostname="", ranges=(), **fields) -> Service:
    return Service(
        name=name,
        namespace=namespace,
        hostname=hostname or f"{name}.{namespace}",
        addresses=tuple(at(ip) for ip in ips),
        ranges=tuple(AddressRange("", ip_network(r)) for r in ranges),
        **fields,
    )


def policy(key, scope=Scope.NAMESPACE, action=Action.ALLOW) -> Authorization:
    namespace, _, name = key.partition("/")
    return Authorization(name=name, namespace=namespace, scope=scope, action=action)


def put(mesh: MeshState, *values) -> frozenset[str]:
    changed = frozenset()
    for value in values:
        url = AUTHORIZATION_TYPE if isinstance(value, Authorization) else ADDRESS_TYPE
        changed |= mesh.apply(url, {"": value})
    return changed


@pytest.fixture
def mesh() -> MeshState:
    return MeshState()


def test_a_workload_by_uid_address_and_pod(mesh):
    a = pod("a", services=["shop/web"])
    assert put(mesh, a) == {a.uid, "shop/web"}
    assert mesh.workload(a.uid) == a
    assert mesh.workload_by_address(at("10.0.0.1")) == a
    assert mesh.workload_by_address(at("10.0.0.1", "other")) is None
    assert mesh.workloads_of_pod("shop", "a") == (a,)


def test_an_update_that_changes_nothing_reports_nothing(mesh):
    values = (pod("a"), service("web"), policy("shop/p"))
    assert put(mesh, *values)
    assert put(mesh, *values) == frozenset()
    assert mesh.apply(ADDRESS_TYPE, {}, ["unknown", "no/such", "a/b/c"]) == frozenset()


def test_a_moved_pod_leaves_its_old_address(mesh):
    put(mesh, pod("a", "10.0.0.1"), pod("a", "10.0.0.2"))
    assert mesh.workload_by_address(at("10.0.0.1")) is None
    assert mesh.workload_by_address(at("10.0.0.2")).name == "a"


def test_one_address_with_several_workloads_belongs_to_the_likeliest(mesh):
    entry = Workload(uid="K/entry", name="e", namespace="shop", addresses=(ip_address("10.0.0.1"),))
    plain = pod("plain")
    hbone = pod("z-hbone", tunnel_protocol=TunnelProtocol.HBONE)
    put(mesh, entry, plain, hbone)
    assert mesh.workloads.at(at("10.0.0.1")) == (hbone, plain, entry)
    mesh.apply(ADDRESS_TYPE, {}, [hbone.uid])
    assert mesh.workload_by_address(at("10.0.0.1")) == plain


def test_host_network_pods_have_no_address_of_their_own(mesh):
    put(mesh, pod("a", network_mode=NetworkMode.HOST_NETWORK))
    assert mesh.workload_by_address(at("10.0.0.1")) is None
    assert mesh.workloads_of_pod("shop", "a")


def test_a_service_by_exact_address_before_ranges_and_the_longest_range_first(mesh):
    put(
        mesh,
        service("wide", ranges=["10.0.0.0/8"]),
        service("narrow", ranges=["10.1.0.0/16"]),
        service("exact", "10.1.0.1"),
    )
    assert mesh.service_by_address(at("10.1.0.1")).name == "exact"
    assert mesh.service_by_address(at("10.1.0.2")).name == "narrow"
    assert mesh.service_by_address(at("10.2.0.1")).name == "wide"
    assert mesh.service_by_address(at("11.0.0.1")) is None
    assert mesh.service_by_address(at("fd00::1")) is None
    mesh.apply(ADDRESS_TYPE, {}, ["shop/narrow.shop", "shop/exact.shop"])
    assert mesh.service_by_address(at("10.1.0.1")).name == "wide"


def test_one_hostname_in_several_namespaces(mesh):
    put(
        mesh,
        service("a", "1.1.1.1", namespace="a", hostname="x"),
        service("b", "1.1.1.1", namespace="b", hostname="x", canonical=True),
        service("c", "1.1.1.1", namespace="c", hostname="x"),
    )
    seen = {ns: mesh.service_by_hostname("x", ns).namespace for ns in ("a", "b", "c", "d")}
    assert seen == {"a": "a", "b": "b", "c": "c", "d": "b"}  # own, else the canonical one
    assert mesh.service_by_address(at("1.1.1.1"), "c").namespace == "c"
    mesh.apply(ADDRESS_TYPE, {}, ["b/x"])
    assert mesh.service_by_hostname("x", "d").namespace == "a"  # else the first


def test_a_private_service_is_invisible_elsewhere(mesh):
    put(mesh, service("s", "1.1.1.1", ranges=["2.0.0.0/8"], visibility=Visibility.NAMESPACE))
    for ip in ("1.1.1.1", "2.0.0.1"):
        assert mesh.service_by_address(at(ip), "shop")
        assert mesh.service_by_address(at(ip), "bank") is None
    assert mesh.service_by_hostname("s.shop", "bank") is None
    assert mesh.service(NamespacedHostname("shop", "s.shop"))


def test_endpoints_may_come_before_their_service_and_outlive_its_replacement(mesh):
    a, b = (
        pod("a", "10.0.0.1", services=["shop/web.shop"]),
        pod("b", "10.0.0.2", services=["shop/web.shop"], status=WorkloadStatus.UNHEALTHY),
    )
    put(mesh, b, a)
    web = service("web", "1.1.1.1")
    put(mesh, web)
    put(mesh, service("web", "1.1.1.2"))
    assert [(e.workload, e.ports) for e in mesh.endpoints(web)] == [(a, HTTP), (b, HTTP)]
    put(mesh, pod("a", "10.0.0.1"))  # no longer a member
    mesh.apply(ADDRESS_TYPE, {}, [b.uid])
    assert mesh.endpoints(web.key) == ()


def test_policies_that_select_a_workload(mesh):
    put(
        mesh,
        policy("root/g", Scope.GLOBAL),
        policy("shop/n"),
        policy("bank/n"),
        policy("shop/s", Scope.WORKLOAD_SELECTOR),
    )
    named = pod("a", authorization_policies=("shop/s", "bank/n", "shop/gone"))
    assert [p.key for p in mesh.policies_for(named).allow] == ["root/g", "shop/n", "shop/s"]
    assert mesh.policies_for(named).missing == ("shop/gone",)
    assert [p.key for p in mesh.policies_for(pod("b")).allow] == ["root/g", "shop/n"]


def test_a_policy_set_is_the_same_object_until_a_policy_in_it_changes(mesh):
    put(mesh, policy("shop/n"))
    shop, bank = pod("a", authorization_policies=("shop/s",)), pod("b", namespace="bank")
    first, other = mesh.policies_for(shop), mesh.policies_for(bank)
    put(mesh, policy("shop/x", Scope.WORKLOAD_SELECTOR))
    assert mesh.policies_for(shop) is first  # it does not name shop/x
    put(mesh, policy("shop/n", action=Action.DENY))
    assert mesh.policies_for(shop) is not first
    assert mesh.policies_for(bank) is other
    assert put(mesh, policy("shop/s", Scope.WORKLOAD_SELECTOR)) == {"shop/s"}
    assert mesh.policies_for(shop).missing == ()
    mesh.apply(AUTHORIZATION_TYPE, {}, ["shop/n", "shop/s"])
    assert mesh.policies_for(shop).all == ()
    put(mesh, policy("root/g", Scope.GLOBAL))
    assert mesh.policies_for(bank) is not other


def test_a_type_that_is_not_ours_is_a_mistake_of_the_caller(mesh):
    with pytest.raises(ValueError, match="does not hold"):
        mesh.apply(CONFIG_TYPE, {})


# --- any order of updates ends in the same look-ups as building from scratch ---

IPS = ["10.0.0.1", "10.0.0.2", "10.1.0.1"]
HOSTS = ["shop/x", "bank/x", "shop/y"]
PODS = st.builds(
    pod,
    st.sampled_from("abc"),
    st.sampled_from(IPS),
    namespace=st.sampled_from(["shop", "bank"]),
    services=st.lists(st.sampled_from(HOSTS), unique=True),
    network_mode=st.sampled_from(NetworkMode),
    tunnel_protocol=st.sampled_from([TunnelProtocol.NONE, TunnelProtocol.HBONE]),
    authorization_policies=st.lists(
        st.sampled_from(["shop/p", "shop/q", "bank/p"]), unique=True
    ).map(tuple),
)


@st.composite
def _services(draw):
    namespace, hostname = draw(st.sampled_from(HOSTS)).split("/")
    return service(
        "s",
        *draw(st.lists(st.sampled_from(IPS), max_size=2)),
        namespace=namespace,
        hostname=hostname,
        ranges=draw(st.lists(st.sampled_from(["10.0.0.0/8", "10.0.0.0/24"]), max_size=2)),
        canonical=draw(st.booleans()),
        visibility=draw(st.sampled_from(Visibility)),
    )


POLICIES = st.builds(
    policy,
    st.sampled_from(["shop/p", "shop/q", "bank/p"]),
    st.sampled_from(Scope),
    st.sampled_from(Action),
)
REMOVALS = st.sampled_from([*HOSTS, "K//Pod/shop/a", "K//Pod/bank/b", "shop/p", "shop/q"])


def everything(mesh: MeshState) -> object:
    """Every answer that the mesh can give about the names and addresses of this test."""
    namespaces = ("shop", "bank", "other")
    addresses = [at(ip) for ip in (*IPS, "10.9.9.9")]
    return (
        [mesh.workloads.at(a) for a in addresses],
        [mesh.workloads_of_pod(ns, name) for ns in namespaces for name in "abc"],
        [mesh.service_by_address(a, ns) for a in addresses for ns in namespaces],
        [mesh.service_by_hostname(h, ns) for h in "xy" for ns in namespaces],
        [mesh.endpoints(NamespacedHostname.parse(h)) for h in HOSTS],
        [
            ([p.key for p in s.all], s.missing)
            for w in sorted(mesh.workloads, key=lambda w: w.uid)
            for s in [mesh.policies_for(w)]
        ],
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(PODS | _services() | POLICIES | REMOVALS, max_size=25), st.randoms())
def test_any_order_ends_in_the_same_answers(steps, random):
    mesh = MeshState()
    present: dict[tuple[str, str], object] = {}
    for step in steps:
        if isinstance(step, str):
            for url in (ADDRESS_TYPE, AUTHORIZATION_TYPE):
                mesh.apply(url, {}, [step])
                present.pop((url, step), None)
            continue
        put(mesh, step)
        everything(mesh)  # fills every cache, so that a stale one would show
        match step:
            case Workload():
                present[ADDRESS_TYPE, step.uid] = step
            case Service():
                present[ADDRESS_TYPE, str(step.key)] = step
            case Authorization():
                present[AUTHORIZATION_TYPE, step.key] = step
    fresh = MeshState()
    values = list(present.values())
    random.shuffle(values)
    put(fresh, *values)
    assert everything(mesh) == everything(fresh)
