"""What is in the way of an installation is named before anything is changed; removing goes on."""

from __future__ import annotations

import json

import yaml

from tests.unit.ambientctl.conftest import MANIFESTS

SYSTEM = "istio-system"
MESH = ("deployments", "daemonsets")
DEFINITIONS = ("apiextensions.k8s.io", "customresourcedefinitions")
OURS = len(list((MANIFESTS / "crds").glob("*.yaml")))


def installed(command_line):
    """Names of its workloads, with namespaces."""
    return {key for kind in MESH for key in command_line.objects(("apps", kind))}


def refused(done, error, hint):
    assert done.status == 1, done
    lines = done.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-2:-1], lines
    assert error in lines[-2]
    assert hint in lines[-1]


def test_a_second_namespace_would_take_the_mesh_from_the_first(bare):
    bare.ok("install", "-y", "--no-wait")
    before = installed(bare)
    for verb in ("install", "upgrade"):
        done = bare(verb, "-y", "--no-wait", "--istioNamespace", "other")
        refused(done, f"is in namespace {SYSTEM}; nothing was changed", f"Namespace {SYSTEM}")
    assert installed(bare) == before
    assert "other" not in {name for _, name in bare.objects(("", "namespaces"))}


def test_a_revision_is_no_mesh_without_the_first(bare):
    done = bare("install", "-y", "--no-wait", "--revision", "canary")
    refused(done, "no mesh that revision canary could be a second", "without --revision first")
    assert installed(bare) == set()
    for words in ((), ("--revision", "canary")):
        bare.ok("install", "-y", "--no-wait", *words)
    both = installed(bare)
    done = bare("uninstall", "-y", "--revision", "default")
    refused(done, "accounts, agents and tunnels of revision canary, too", "ambientctl upgrade")
    assert installed(bare) == both
    bare.ok("uninstall", "-y", "--revision", "canary")
    bare.ok("uninstall", "-y", "--revision", "default")
    assert installed(bare) == set()


ISTIOD = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "istiod",
        "namespace": SYSTEM,
        "labels": {"app": "istiod", "app.kubernetes.io/managed-by": "Helm"},
    },
    "spec": {
        "selector": {"matchLabels": {"app": "istiod"}},
        "template": {
            "metadata": {"labels": {"app": "istiod"}},
            "spec": {"containers": [{"name": "discovery", "image": "registry/pilot:1.29.0"}]},
        },
    },
}


def test_the_mesh_of_another_tool_is_left_alone(bare):
    bare.apply(
        f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM}}}",
        "apiVersion: v1\nkind: Namespace\n"
        "metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}",
        json.dumps(ISTIOD),
    )
    done = bare("install", "-y", "--no-wait")
    what = f"somebody else made Deployment {SYSTEM}/istiod (registry/pilot:1.29.0); nothing was"
    refused(done, what, "the tool that made them (istioctl, helm, kubectl)")
    assert installed(bare) == {(SYSTEM, "istiod")}
    assert bare.objects(DEFINITIONS) == {}
    done = bare("uninstall", "-y")
    refused(done, f"Deployment {SYSTEM}/istiod was not installed by ambientctl", "helm")
    labels = bare.objects(("", "namespaces"))["", "shop"]["metadata"]["labels"]
    assert labels["istio.io/dataplane-mode"] == "ambient"


def test_a_removal_that_was_interrupted_goes_on(bare):
    bare.ok("install", "-y", "--no-wait")
    bare.ok("uninstall", "-y")
    refused(bare("uninstall", "-y"), "there is no installation", "--purge removes definitions")
    shown = bare.ok("uninstall", "-y", "--purge", "--dry-run")
    assert "CustomResourceDefinition gateways.gateway.networking.k8s.io is deleted" in shown
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "istiod-lite-writer", "namespace": SYSTEM},
    }
    bare.apply(json.dumps(lease))
    assert "✔ nothing is left" in bare.ok("uninstall", "-y")
    assert bare.objects(("coordination.k8s.io", "leases")) == {}
    assert f"✔ {OURS} definitions deleted" in bare.ok("uninstall", "-y", "--purge")
    assert bare.objects(DEFINITIONS) == {}


def test_a_mesh_whose_agent_is_gone_can_be_removed(bare):
    bare.ok("install", "-y", "--no-wait")
    bare.apply(
        "apiVersion: v1\nkind: Namespace\n"
        "metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}"
    )
    bare.pod("shop/stuck", "10.244.1.5", annotations={"ambient.istio.io/redirection": "enabled"})
    words = ("uninstall", "-y", "--no-wait", "--readiness-timeout", "0.01")
    refused(bare(*words), "still in the mesh: shop/stuck", "--force goes on")
    done = bare(*words, "--force")
    assert done.status == 0
    assert "warning: still in the mesh: shop/stuck" in done.err
    assert "hint: delete them" in done.err
    assert installed(bare) == set()


def test_others_definitions_are_counted_and_stay(bare):
    bare.ok("install", "-y", "--no-wait")
    found = bare.objects(DEFINITIONS)["", "gateways.gateway.networking.k8s.io"]
    bare.ok("uninstall", "-y", "--purge")
    theirs = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
              "metadata": {"name": found["metadata"]["name"]}, "spec": found["spec"]}  # fmt: skip
    bare.apply(yaml.safe_dump(theirs))
    assert f"✔ definitions ({OURS - 1} new, 1 of somebody else stay)" in bare.ok(
        "install", "-y", "--no-wait"
    )
    assert "✔ definitions (0 new, 1 of somebody else stay)" in bare.ok("install", "-y", "--no-wait")
    bare.ok("uninstall", "-y", "--purge")
    assert {name for _, name in bare.objects(DEFINITIONS)} == {theirs["metadata"]["name"]}
