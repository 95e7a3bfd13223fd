"""Installing, upgrading and uninstalling on the embedded API server."""

from __future__ import annotations

import pytest
import yaml

from ambient.api.errors import MeshError
from ambientctl.install.plan import Wish, version_of, waiting_for
from ambientctl.install.recorded import NAME, Recorded, config_map, read
from tests.unit.ambientctl.conftest import run_command

SYSTEM = "istio-system"


def ready(command_line):
    """What controllers and kubelets would bring about."""
    for kind, name in (("Deployment", "istiod"), ("DaemonSet", "ztunnel"),
                       ("DaemonSet", "istio-cni-node")):  # fmt: skip
        status = {
            "observedGeneration": 99, "updatedReplicas": 2, "availableReplicas": 2,
            "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1,
        }  # fmt: skip
        command_line.status("apps/v1", kind, f"{SYSTEM}/{name}", status)


def names(command_line, resource):
    return {key[1] for key in command_line.objects(resource)}


def test_a_dry_run_prints_what_would_be_applied_and_needs_no_cluster():
    done = run_command(
        ["install", "--dry-run", "--set", "istiod.replicas=3"], "", {"KUBECONFIG": "/nowhere"}
    )
    assert done.status == 0
    objects = list(yaml.safe_load_all(done.out))
    istiod = next(one for one in objects if one["kind"] == "Deployment")
    scaler = next(one for one in objects if one["kind"] == "HorizontalPodAutoscaler")
    assert scaler["spec"]["minReplicas"] == 3
    assert istiod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "ambientctl"
    assert objects[0]["kind"] == "CustomResourceDefinition"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--profile", "lost"), "there is no profile lost"),
        (("--set", "istiod.replica=3"), "did you mean istiod.replicas?"),
        (("--set", "istiod"), "not NAME=VALUE"),
        (("-f", "/nowhere"), "No such file"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_anything_happens(bare, words, said):
    done = bare("install", "-y", *words)
    assert done.status in (1, 2)
    assert said in done.err
    assert bare.objects(("apps", "deployments")) == {}


def test_install_again_upgrade_and_uninstall(bare):
    refused = bare("install")
    assert refused.status == 2
    assert "Nobody is there to answer" in refused.err

    out = bare.ok("install", "-y", "--no-wait")
    assert "new)" in out
    assert "objects applied" in out
    assert names(bare, ("apps", "daemonsets")) == {"ztunnel", "istio-cni-node"}

    late = bare("install", "-y", "--readiness-timeout", "0.01")
    assert late.status == 1
    assert "not ready after 0.01 s: " in late.err
    assert "control plane: not looked at yet" in late.err

    ready(bare)
    out = bare.ok("upgrade", "-y", "--set", "components.networkPolicies=true")
    assert "✔ control plane is ready" in out
    assert "✔ ztunnel is ready" in out
    policies = names(bare, ("networking.k8s.io", "networkpolicies"))
    assert policies
    ready(bare)
    out = bare.ok("upgrade", "-y")
    assert "values of the installation are kept: components.networkPolicies=true" in out
    assert names(bare, ("networking.k8s.io", "networkpolicies")) == policies
    ready(bare)
    out = bare.ok("upgrade", "-y", "--reset-values")
    assert f"{len(policies)} objects of the earlier version removed" in out
    assert names(bare, ("networking.k8s.io", "networkpolicies")) == set()

    bare.apply(
        "apiVersion: v1\nkind: Namespace\n"
        "metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, "
        "istio.io/use-waypoint: waypoint}}"
    )
    planned_ = bare.ok("uninstall", "--dry-run")
    assert "namespace shop leaves the mesh" in planned_
    assert "namespace shop no longer uses waypoint shop/waypoint" in planned_
    assert "DaemonSet istio-system/ztunnel is deleted" in planned_
    assert names(bare, ("apps", "deployments")) == {"istiod"}

    out = bare.ok("uninstall", "-y")
    assert "✔ namespace shop has left the mesh" in out
    (labels,) = (
        one["metadata"]["labels"]
        for key, one in bare.objects(("", "namespaces")).items()
        if key[1] == "shop"
    )
    assert not [label for label in labels if label.startswith("istio.io/")]
    assert "✔ nothing is left" in out
    assert names(bare, ("apps", "deployments")) == set()
    assert "gateways.gateway.networking.k8s.io" in names(
        bare, ("apiextensions.k8s.io", "customresourcedefinitions")
    )
    again = bare("uninstall", "-y")
    assert again.status == 1
    assert "there is no installation" in again.err


def test_pods_that_are_still_captured_keep_the_tunnel(bare):
    bare.ok("install", "-y", "--no-wait")
    bare.apply(
        "apiVersion: v1\nkind: Namespace\n"
        "metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}"
    )
    marks = {"ambient.istio.io/redirection": "enabled"}
    bare.pod("shop/stuck", "10.244.1.5", annotations=marks)
    done = bare("uninstall", "-y", "--readiness-timeout", "0.01")
    assert done.status == 1
    assert "still in the mesh: shop/stuck" in done.err
    assert "ztunnel" in names(bare, ("apps", "daemonsets"))


def test_errors_of_the_preflight_stop_an_installation(bare):
    bare.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cilium-config, namespace: kube-system}\n"
        'data: {cni-exclusive: "true"}'
    )
    done = bare("install", "-y", "--no-wait")
    assert done.status == 1
    assert "cni.exclusive=false" in done.err
    assert "nothing was changed" in done.err
    assert bare.objects(("apps", "deployments")) == {}
    assert bare("install", "-y", "--no-wait", "--force").status == 0


def test_a_revision_is_a_second_control_plane_that_goes_alone(bare):
    bare.ok("install", "-y", "--no-wait")
    bare.ok("install", "-y", "--no-wait", "--revision", "canary")
    assert names(bare, ("apps", "deployments")) == {"istiod", "istiod-canary"}
    nothing = bare("upgrade", "-y", "--no-wait", "--revision", "other")
    assert nothing.status == 1
    assert "no installation of revision other" in nothing.err
    bare.ok("uninstall", "-y", "--revision", "canary")
    assert names(bare, ("apps", "deployments")) == {"istiod"}


def workload(kind, generation=1, **status):
    return {
        "kind": kind,
        "metadata": {"name": "x", "generation": generation},
        "spec": {"replicas": 2},
        "status": status,
    }


@pytest.mark.parametrize(
    ("obj", "why"),
    [
        (workload("Deployment"), "not looked at yet"),
        (workload("Deployment", observedGeneration=1), "0 of 2 updated"),
        (workload("Deployment", observedGeneration=1, updatedReplicas=2), "0 of 2 ready"),
        (workload("Deployment", observedGeneration=1, updatedReplicas=2, availableReplicas=2), ""),
        (workload("DaemonSet", observedGeneration=1), "wanted on no node"),
        (
            workload("DaemonSet", observedGeneration=1, desiredNumberScheduled=3,
                     updatedNumberScheduled=3, numberAvailable=1),
            "1 of 3 ready",
        ),
    ],
)  # fmt: skip
def test_what_a_rollout_waits_for(obj, why):
    assert waiting_for(obj) == why


def test_the_version_is_that_of_the_images():
    wish = Wish(sets=("image=registry:5000/ambient-mesh:1.2.3",))
    plan = Recorded().with_wish(wish).plan("istio-system")
    assert plan.version == version_of(plan.objects) == "1.2.3"


# Values that an installation keeps.


def test_an_upgrade_asks_again_for_what_was_asked_for(bare):
    bare.ok("install", "-y", "--no-wait", "--profile", "minimal", "--set", "istiod.replicas=3",
            "--set", "ztunnel.resources.limits.memory=1Gi")  # fmt: skip
    shown = bare.ok("upgrade", "--dry-run", "--set", "istiod.replicas=4")
    scaler = next(one for one in yaml.safe_load_all(shown)
                  if one["kind"] == "HorizontalPodAutoscaler")  # fmt: skip
    assert scaler["spec"]["minReplicas"] == 4
    assert "memory: 1Gi" in shown
    assert "memory: 1Gi" not in bare.ok("upgrade", "--dry-run", "--reset-values")

    # What an installation no longer asks for is told.
    done = bare("install", "-y", "--no-wait", "--profile", "minimal", "--set", "istiod.replicas=3")
    assert "no longer asked for: ztunnel.resources.limits.memory=1Gi" in done.err
    assert "memory: 1Gi" not in bare.ok("upgrade", "--dry-run")


def test_a_value_that_a_new_version_does_not_have_is_named(bare):
    bare.ok("install", "-y", "--no-wait")
    kept = config_map(Recorded((), {"istiod": {"old": 1}}), "default", SYSTEM)
    kept["metadata"]["labels"] = {
        "app.kubernetes.io/managed-by": "ambientctl",
        "install.ambient-mesh.io/revision": "default",
    }
    bare.apply(yaml.safe_dump(kept))
    done = bare("upgrade", "-y", "--no-wait")
    assert done.status == 1
    assert "there is no value istiod.old" in done.err
    assert "--reset-values forgets it" in done.err
    bare.ok("upgrade", "-y", "--no-wait", "--reset-values")
    assert "nothing" not in bare.ok("upgrade", "-y", "--no-wait")


def test_what_is_kept_is_read_back_and_rubbish_is_refused():
    asked = Recorded(("a", "b"), {"x": {"y": 1, "z": None}})
    kept = config_map(asked, "canary", SYSTEM)
    assert kept["metadata"]["name"] == f"{NAME}-canary"
    kept["metadata"]["labels"] = {"install.ambient-mesh.io/revision": "canary"}
    assert read([kept], "canary") == asked
    assert read([kept], "default") == Recorded()
    assert list(asked.lines()) == ["x.y=1", "x.z=null"]
    assert asked.with_wish(Wish(("c",), ("x.y=2",))) == Recorded(("c",), {"x": {"y": 2, "z": None}})
    for text in ("a: [", "text"):
        with pytest.raises(MeshError, match="holds no values"):
            read([{**kept, "data": {"values.yaml": text}}], "canary")


@pytest.mark.parametrize(
    ("image", "becomes"),
    [
        ("ambient-mesh:0.0.9", "ambient-mesh:1.2.3"),
        ("registry:5000/a/mesh:0.0.9-rc.1", "registry:5000/a/mesh:1.2.3"),
        ("registry:5000/a/mesh", "registry:5000/a/mesh"),
        ("mesh:mine", "mesh:mine"),
        ("mesh:0.0.9@sha256:00", "mesh:0.0.9@sha256:00"),
    ],
)
def test_an_upgrade_moves_the_release_of_an_image(image, becomes):
    kept = Recorded((), {"image": image, "a": 1})
    assert kept.upgraded("1.2.3").values == {"image": becomes, "a": 1}
    assert Recorded((), {"a": 1}).upgraded("1.2.3").values == {"a": 1}
