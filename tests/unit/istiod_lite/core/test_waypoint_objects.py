"""Gateway to the objects that run it."""

from ambient.kube.core import objects
from istiod_lite.core import waypoint_objects as made
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.waypoint_objects import WaypointPlan
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
