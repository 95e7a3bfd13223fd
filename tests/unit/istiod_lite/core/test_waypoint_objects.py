"""Gateway to the objects that run it."""

import msgspec
import pytest

from ambient.kube.core import objects
from istiod_lite.core import waypoint_objects as made
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.waypoint_objects import WaypointPlan
from istiod_lite.core.waypoint_parameters import Parameters
from tests.unit.istiod_lite.objects import gateway

PLAN = WaypointPlan(
    facts=MeshFacts(),
    image="mesh/waypoint:1",
    command=("waypoint",),
    discovery_address="istiod.istio-system.svc:15012",
)


def read(*addresses, **spec):
    raw = gateway("wp", "shop", *addresses)
    raw["spec"] |= spec
    return objects.decode(raw, objects.Gateway)


def test_every_object_is_owned_by_the_gateway():
    for obj in (
        made.service_account(read()),
        made.service(read()),
        made.deployment(read(), PLAN),
    ):
        metadata = obj["metadata"]
        assert (metadata["name"], metadata["namespace"]) == ("wp", "shop")
        assert metadata["labels"] == {
            "gateway.networking.k8s.io/gateway-name": "wp",
            "gateway.networking.k8s.io/gateway-class-name": "istio-waypoint",
            "gateway.istio.io/managed": "istio.io-mesh-controller",
        }
        (owner,) = metadata["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Gateway", "uid-wp", True)


def test_pod():
    template = made.deployment(read(), PLAN)["spec"]["template"]
    assert template["metadata"]["labels"]["istio.io/dataplane-mode"] == "none"
    spec = template["spec"]
    (container,) = spec["containers"]
    assert (container["command"], container["image"]) == (["waypoint"], "mesh/waypoint:1")
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert set(env) == {
        "POD_NAME",
        "POD_NAMESPACE",
        "INSTANCE_IP",
        "NODE_NAME",
        "SERVICE_ACCOUNT",
        "GATEWAY_NAME",
        "XDS_ADDRESS",
        "CA_ADDRESS",
        "CLUSTER_ID",
        "TRUST_DOMAIN",
    }
    assert (env["GATEWAY_NAME"], env["XDS_ADDRESS"]) == ("wp", "istiod.istio-system.svc:15012")
    assert container["readinessProbe"]["httpGet"] == {"path": "/healthz/ready", "port": 15021}
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert set(mounts) == {"/var/run/secrets/tokens", "/var/run/secrets/istio"}
    assert {one["name"] for one in spec["volumes"]} == set(mounts.values())
    assert (
        spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["audience"]
        == "istio-ca"
    )


def test_a_registry_that_asks_finds_its_secret_beside_the_waypoint():
    plan = msgspec.structs.replace(PLAN, pull_secrets=("registry",))
    pod = made.deployment(read(), plan)["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_an_annotation_has_applications_told_who_calls():
    raw = gateway("wp", "shop")
    for value, told in (("TRUE", "true"), ("yes", None)):
        raw["metadata"]["annotations"] = {made.XFCC_ANNOTATION: value}
        template = made.deployment(objects.decode(raw, objects.Gateway), PLAN)["spec"]["template"]
        env = {one["name"]: one.get("value") for one in template["spec"]["containers"][0]["env"]}
        assert env.get("XFCC_INCLUDE_CLIENT_IDENTITY") == told


def test_service_ports_are_the_listeners_and_readiness():
    ports = [(one["name"], one["port"]) for one in made.service(read())["spec"]["ports"]]
    assert ports == [("status-port", 15021), ("mesh", 15008)]


def test_infrastructure_labels_are_copied_but_not_over_ours():
    labels = {"team": "x", "gateway.networking.k8s.io/gateway-name": "evil"}
    copied = made.service(read(infrastructure={"labels": labels, "annotations": {"a": "b"}}))[
        "metadata"
    ]
    assert copied["labels"]["team"] == "x"
    assert copied["labels"]["gateway.networking.k8s.io/gateway-name"] == "wp"
    assert copied["annotations"]["a"] == "b"


def by_kind(parameters, **spec):
    plan = msgspec.structs.replace(PLAN, parameters=parameters)
    return {resource.kind: obj for resource, obj in made.objects_of(read(**spec), plan)}


def test_pain_15_a_waypoint_that_restarts_is_not_missed():
    """Two pods, apart from each other; one at a time may go, and it may finish what it has."""
    found = by_kind(Parameters())
    assert set(found) == {"ServiceAccount", "Service", "Deployment", "PodDisruptionBudget"}
    spec = found["Deployment"]["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    template = spec["template"]["spec"]
    assert template["terminationGracePeriodSeconds"] == 30
    assert [
        (one["topologyKey"], one["whenUnsatisfiable"])
        for one in template["topologySpreadConstraints"]
    ] == [
        ("kubernetes.io/hostname", "ScheduleAnyway"),
        ("topology.kubernetes.io/zone", "ScheduleAnyway"),
    ]
    budget = found["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == spec["selector"]


def test_pain_15_a_control_plane_that_restarts_changes_no_pod():
    first, again = (by_kind(Parameters())["Deployment"] for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("parameters", "kinds", "replicas"),
    [
        (Parameters(replicas=1), set(), 1),
        (Parameters(replicas=3), {"PodDisruptionBudget"}, 3),
        (Parameters(replicas=3, max_unavailable=0), set(), 3),
        (
            Parameters(replicas=1, max_replicas=5),
            {"PodDisruptionBudget", "HorizontalPodAutoscaler"},
            1,
        ),
        (
            Parameters(replicas=1, overlays={"podDisruptionBudget": {"spec": {"minAvailable": 1}}}),
            {"PodDisruptionBudget"},
            1,
        ),
    ],
)
def test_pain_16_how_a_waypoint_scales_is_a_field(parameters, kinds, replicas):
    found = by_kind(parameters)
    assert set(found) - {"ServiceAccount", "Service", "Deployment"} == kinds
    assert found["Deployment"]["spec"]["replicas"] == replicas


def test_pain_16_autoscaler():
    spec = by_kind(Parameters(replicas=2, max_replicas=6, cpu_percent=70))[
        "HorizontalPodAutoscaler"
    ]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "wp"}
    assert spec["metrics"][0]["resource"]["target"]["averageUtilization"] == 70


@pytest.mark.parametrize(("spread", "want"), [("required", "DoNotSchedule"), ("none", None)])
def test_pain_16_affinity(spread, want):
    template = by_kind(Parameters(spread=spread))["Deployment"]["spec"]["template"]["spec"]
    found = {one["whenUnsatisfiable"] for one in template["topologySpreadConstraints"]}
    assert found == ({want} if want else set())


def test_an_overlay_changes_what_it_says_and_never_what_ties_the_object_to_its_gateway():
    patch = {
        "metadata": {"name": "evil", "labels": {"team": "x", "gateway.istio.io/managed": "no"}},
        "spec": {
            "selector": {"matchLabels": {"app": "other"}},
            "template": {"spec": {"containers": [{"name": "istio-proxy", "image": "mine"}]}},
        },
    }
    found = by_kind(Parameters(overlays={"deployment": patch}))["Deployment"]
    plain = by_kind(Parameters())["Deployment"]
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mine"
    assert found["metadata"] == {
        **plain["metadata"],
        "labels": {**plain["metadata"]["labels"], "team": "x"},
    }
    assert found["spec"]["selector"] == plain["spec"]["selector"]


@pytest.mark.parametrize(
    ("annotations", "name", "account", "kind"),
    [
        ({}, "wp", "wp", "ClusterIP"),
        ({"gateway.istio.io/name-override": "n"}, "n", "wp", "ClusterIP"),
        ({"gateway.istio.io/service-account": "sa"}, "wp", "sa", "ClusterIP"),
        ({"networking.istio.io/service-type": "NodePort"}, "wp", "wp", "NodePort"),
    ],
)
def test_names_and_types_from_annotations(annotations, name, account, kind):
    raw = gateway("wp", "shop")
    raw["metadata"]["annotations"] = annotations
    found = {
        resource.kind: obj
        for resource, obj in made.objects_of(objects.decode(raw, objects.Gateway), PLAN)
    }
    assert found["Service"]["metadata"]["name"] == name
    assert found["Service"]["spec"]["type"] == kind
    assert found["ServiceAccount"]["metadata"]["name"] == account
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert (found["Deployment"]["metadata"]["name"], pod["serviceAccountName"]) == (name, account)


@pytest.mark.parametrize(("version", "newer"), [(None, False), ("5", False), ("6", True)])
def test_a_gateway_of_a_newer_control_plane_is_left_alone(version, newer):
    raw = gateway("wp", "shop")
    if version:
        raw["metadata"]["annotations"] = {"gateway.istio.io/controller-version": version}
    assert made.is_newer(objects.decode(raw, objects.Gateway)) is newer
