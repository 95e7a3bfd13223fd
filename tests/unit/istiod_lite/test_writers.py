"""What the leader writes: statuses, addresses and waypoints, against an API server's double."""

from contextlib import asynccontextmanager

import pytest
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict
from ambient.kube.io.client import KubeClient
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.index import Index
from istiod_lite.core.waypoint_objects import WaypointPlan
from istiod_lite.core.waypoint_parameters import Parameters
from istiod_lite.io.address_allocator import AddressAllocator
from istiod_lite.io.debounce import Debounce
from istiod_lite.io.keyed_queue import KeyedQueue
from istiod_lite.io.status_writer import StatusWriter
from istiod_lite.io.watches import Watches
from istiod_lite.io.waypoint_controller import WaypointController
from tests.fakes.kube_api import FakeKubeApi
from tests.unit.istiod_lite.objects import (
    gateway,
    namespace,
    pod,
    policy,
    route,
    service,
    service_entry,
)
from tests.unit.istiod_lite.test_app import until

NETWORKING, SECURITY = "/apis/networking.istio.io/v1", "/apis/security.istio.io/v1"
GATEWAY_API = "/apis/gateway.networking.k8s.io/v1"
SERVICES, ENTRIES = "/api/v1/services", f"{NETWORKING}/serviceentries"
POLICIES, ROUTES = f"{SECURITY}/authorizationpolicies", f"{GATEWAY_API}/httproutes"
GATEWAYS, DEPLOYMENTS = f"{GATEWAY_API}/gateways", "/apis/apps/v1/deployments"
BUDGETS = "/apis/policy/v1/poddisruptionbudgets"
SCALERS = "/apis/autoscaling/v2/horizontalpodautoscalers"
CONFIG_MAPS, NAMESPACES = "/api/v1/configmaps", "/api/v1/namespaces"
PLAN = WaypointPlan(
    facts=MeshFacts(), image="i", command=("waypoint",), discovery_address="istiod:15012"
)


@asynccontextmanager
async def leading(api, tmp_path, *, plan=PLAN):
    """A leader without certificates and proxies."""
    async with api.serving(), KubeClient.connect(api.kubeconfig(tmp_path)) as kube:
        index = Index()
        writers = (StatusWriter(kube, index), AddressAllocator(kube, index))
        waypoints = WaypointController(kube, index, plan)

        def publish(changes, first):
            writers[0].look_at(changes.statuses)
            writers[1].look_at(changes.entries)
            waypoints.look_at(changes.gateways)

        watches = Watches(kube, index, publish, Debounce(0.01, 1.0))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(watches.run)
                for one in (*writers, waypoints):
                    nursery.start_soon(one.run)
                yield
                nursery.cancel_scope.cancel()


def cluster():
    api = FakeKubeApi()
    for name in ("istio-system", "shop"):
        api.put(NAMESPACES, namespace(name))
    return api


def conditions(obj):
    found = obj.get("status", {}).get("conditions", ())
    return {one["type"]: (one["status"], one["reason"]) for one in found}


async def test_conditions_come_follow_and_go(tmp_path):
    api = cluster()
    theirs = {"type": "Other", "status": "True", "reason": "r", "message": "m"}
    use = {"istio.io/use-waypoint": "wp"}
    made = service("web", "shop", "10.96.0.1", labels=use)
    api.put(SERVICES, {**made, "status": {"loadBalancer": {}}})
    api.put(POLICIES, policy("p", "shop", {"rules": [{}]}))

    def said(collection, name):
        return conditions(api.get(collection, "shop", name))

    async with leading(api, tmp_path):
        bound = "istio.io/WaypointBound"
        await until(
            lambda: said(SERVICES, "web").get(bound) == ("False", "WaypointIsNotReady"), api
        )
        await until(lambda: said(POLICIES, "p").get("ZtunnelAccepted") == ("True", "Accepted"), api)
        api.put(GATEWAYS, gateway("wp", "shop", ("Hostname", "wp.shop.svc.cluster.local")))
        await until(lambda: said(SERVICES, "web").get(bound) == ("True", "WaypointAccepted"), api)
        plain = service("web", "shop", "10.96.0.1")
        old = api.get(SERVICES, "shop", "web")["status"]
        api.put(SERVICES, {**plain, "status": {"conditions": [theirs, *old["conditions"]]}})
        await until(lambda: said(SERVICES, "web") == {"Other": ("True", "r")}, api)


async def test_a_status_that_is_right_is_not_written_again(tmp_path):
    api = cluster()
    api.put(POLICIES, policy("p", "shop", {"rules": [{}]}))
    async with leading(api, tmp_path):
        await until(lambda: conditions(api.get(POLICIES, "shop", "p")), api)
    api.port = 0
    api.requests.clear()
    api.put(POLICIES, policy("q", "shop", {"rules": [{}]}))
    async with leading(api, tmp_path):
        await until(lambda: conditions(api.get(POLICIES, "shop", "q")), api)
    assert [
        one for one in api.requests if one.startswith("PATCH") and one.endswith("/p/status")
    ] == []


async def test_a_route_keeps_what_other_controllers_say(tmp_path):
    api = cluster()
    api.put(SERVICES, service("web", "shop", "10.96.0.1"))
    other = {"controllerName": "x/y", "parentRef": {"name": "g"}, "conditions": []}
    made = route("r", "shop", {"group": "", "kind": "Service", "name": "web"})
    api.put(ROUTES, {**made, "status": {"parents": [other]}})

    def parents():
        return api.get(ROUTES, "shop", "r")["status"]["parents"]

    async with leading(api, tmp_path):
        await until(lambda: len(parents()) == 2, api)
        assert other in parents()
        mine = next(one for one in parents() if one != other)
        assert mine["controllerName"] == "istio.io/gateway-controller"
        assert [one["type"] for one in mine["conditions"]] == [
            "Accepted",
            "ResolvedRefs",
            "ResolvedWaypoints",
        ]


async def test_hosts_get_addresses_and_lose_them(tmp_path):
    api = cluster()
    api.put(ENTRIES, service_entry("a", "shop", "a.x"))
    api.put(ENTRIES, service_entry("b", "shop", "b.x", created="2026-05-05"))

    def given(name):
        found = api.get(ENTRIES, "shop", name).get("status", {}).get("addresses") or []
        return [(one["host"], one["value"]) for one in found]

    async with leading(api, tmp_path):
        await until(lambda: given("a") and given("b"), api)
        assert given("a") == [("a.x", "240.240.0.1"), ("a.x", "2001:2::1")]
        assert given("b") == [("b.x", "240.240.0.2"), ("b.x", "2001:2::2")]
        # Somebody writes while we decide: the next attempt works with what is there then.
        taken = service_entry("c", "shop", "c.x", addresses=["240.240.0.2"])
        api.put(ENTRIES, taken)
        await until(lambda: given("b")[0] == ("b.x", "240.240.0.3"), api)
        status = api.get(ENTRIES, "shop", "a")["status"]
        api.put(ENTRIES, {**service_entry("a", "shop", "a.x", resolution="NONE"), "status": status})
        await until(lambda: not given("a"), api)


async def test_another_leader_goes_on_where_the_first_one_ended(tmp_path):
    api = cluster()
    api.put(ENTRIES, service_entry("a", "shop", "a.x"))
    for host, later in (("a.x", None), ("b.x", "b")):
        if later:
            api.port = 0
            api.put(ENTRIES, service_entry(later, "shop", host))
        async with leading(api, tmp_path):
            name = later or "a"
            await until(lambda name=name: api.get(ENTRIES, "shop", name).get("status"), api)
    values = [
        api.get(ENTRIES, "shop", name)["status"]["addresses"][0]["value"] for name in ("a", "b")
    ]
    assert values == ["240.240.0.1", "240.240.0.2"]


def sized(**data):
    return {"metadata": {"name": "size", "namespace": "shop"}, "data": data}


async def test_pain_16_a_config_map_of_the_gateway_decides_how_it_runs(tmp_path):
    api = cluster()
    made = gateway("wp", "shop")
    ref = {"group": "", "kind": "ConfigMap", "name": "size"}
    made["spec"]["infrastructure"] = {"parametersRef": ref}
    api.put(GATEWAYS, made)

    def replicas():
        found = api.get(DEPLOYMENTS, "shop", "wp")
        return found and found["spec"]["replicas"]

    def accepted():
        return conditions(api.get(GATEWAYS, "shop", "wp")).get("Accepted")

    async with leading(api, tmp_path):
        await until(lambda: accepted() == ("False", "InvalidParameters"), api)  # not there yet
        api.put(CONFIG_MAPS, sized(replicas="3", maxReplicas="5"))
        await until(lambda: replicas() == 3, api)
        await until(lambda: api.get(SCALERS, "shop", "wp"), api)
        await until(lambda: accepted() == ("True", "Accepted"), api)
        # What the autoscaler chose stays when something else changes.
        scaled = api.get(DEPLOYMENTS, "shop", "wp")
        api.put(DEPLOYMENTS, {**scaled, "spec": {**scaled["spec"], "replicas": 4}})
        api.put(CONFIG_MAPS, sized(replicas="3", maxReplicas="5", graceSeconds="60"))

        def grace():
            spec = api.get(DEPLOYMENTS, "shop", "wp")["spec"]["template"]["spec"]
            return spec["terminationGracePeriodSeconds"]

        await until(lambda: grace() == 60, api)
        assert replicas() == 4
        api.put(CONFIG_MAPS, sized(replicas="many"))
        await until(lambda: accepted() == ("False", "InvalidParameters"), api)
        assert replicas() == 4
        api.put(CONFIG_MAPS, sized(replicas="1"))
        await until(lambda: replicas() == 1, api)
        await until(lambda: not api.get(SCALERS, "shop", "wp"), api)


async def test_pain_16_what_the_api_server_refuses_is_told_by_the_gateway(tmp_path):
    def no_image(obj):
        template = obj.get("spec", {}).get("template", {"spec": {"containers": []}})
        return any("image" not in one for one in template["spec"]["containers"])

    api = cluster()
    api.invalid = no_image
    made = gateway("wp", "shop")
    ref = {"group": "", "kind": "ConfigMap", "name": "size"}
    made["spec"]["infrastructure"] = {"parametersRef": ref}
    overlay = "spec: {template: {spec: {containers: [{name: proxy, tty: true}]}}}"
    api.put(CONFIG_MAPS, sized(deployment=overlay))
    api.put(GATEWAYS, made)

    def accepted():
        return conditions(api.get(GATEWAYS, "shop", "wp")).get("Accepted")

    async with leading(api, tmp_path):
        await until(lambda: accepted() == ("False", "InvalidParameters"), api)
        api.put(CONFIG_MAPS, sized(deployment=overlay.replace("proxy", "istio-proxy")))
        await until(lambda: accepted() == ("True", "Accepted"), api)
        assert api.get(DEPLOYMENTS, "shop", "wp")


async def test_pain_16_defaults_of_a_class(tmp_path):
    api = cluster()
    labels = {"gateway.istio.io/defaults-for-class": "istio-waypoint"}
    defaults = {"name": "d", "namespace": "istio-system", "labels": labels}
    api.put(CONFIG_MAPS, {"metadata": defaults, "data": {"replicas": "4"}})
    api.put(GATEWAYS, gateway("wp", "shop"))
    async with leading(api, tmp_path):
        await until(lambda: api.get(BUDGETS, "shop", "wp"), api)
        assert api.get(DEPLOYMENTS, "shop", "wp")["spec"]["replicas"] == 4


@pytest.mark.parametrize("kind", ["serviceaccounts", "services", "deployments"])
async def test_what_somebody_deletes_comes_back(tmp_path, kind):
    api = cluster()
    collection = DEPLOYMENTS if kind == "deployments" else f"/api/v1/{kind}"
    api.put(GATEWAYS, gateway("wp", "shop"))
    plan = WaypointPlan(
        facts=MeshFacts(),
        image="i",
        command=("waypoint",),
        discovery_address="istiod:15012",
        parameters=Parameters(replicas=1),
    )
    async with leading(api, tmp_path, plan=plan):
        await until(lambda: api.get(DEPLOYMENTS, "shop", "wp"), api)
        # Told its own status once, it has heard of everything that it made.
        await until(lambda: conditions(api.get(GATEWAYS, "shop", "wp")), api)
        api.remove(collection, "shop", "wp")
        await until(lambda: api.get(collection, "shop", "wp"), api)


async def test_a_gateway_of_another_revision_is_left_alone(tmp_path):
    api = cluster()
    api.put(GATEWAYS, gateway("theirs", "shop", labels={"istio.io/rev": "canary"}))
    api.put(GATEWAYS, gateway("ours", "shop"))
    async with leading(api, tmp_path):
        await until(lambda: api.get(DEPLOYMENTS, "shop", "ours"), api)
        assert api.get(DEPLOYMENTS, "shop", "theirs") is None


async def test_pain_17_the_gateway_says_who_is_bound(tmp_path):
    api = cluster()
    api.put(GATEWAYS, gateway("wp", "shop", ("IPAddress", "10.96.0.9")))
    api.put(SERVICES, service("web", "shop", "10.96.0.1", labels={"istio.io/use-waypoint": "wp"}))

    def in_use():
        return conditions(api.get(GATEWAYS, "shop", "wp")).get("ambient-mesh/InUse")

    async with leading(api, tmp_path):
        await until(lambda: in_use() == ("True", "Used"), api)
        api.put(SERVICES, service("web", "shop", "10.96.0.1"))
        await until(lambda: in_use() == ("False", "NotUsed"), api)
        api.put(
            "/api/v1/pods", pod("x", "shop", "10.0.0.1", labels={"istio.io/use-waypoint": "wp"})
        )
        await until(lambda: in_use() == ("False", "Bypassed"), api)


async def test_a_key_is_worked_on_once_at_a_time_and_again_after_failures(autojump_clock):
    running, most, tries = 0, 0, []

    async def work(key):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await trio.sleep(1)
        running -= 1
        tries.append((key, trio.current_time()))
        if len(tries) == 1:
            raise Conflict(409, "Conflict", "somebody was quicker")
        if len(tries) == 2:
            raise MeshError("no", hint="later")

    queue = KeyedQueue("thing", work)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run)
        begun = trio.current_time()
        queue.add(["a"])
        queue.add(["a"])
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert most == 1
    assert [round(at - begun, 1) for _, at in tries] == [1.0, 2.1, 7.1]
