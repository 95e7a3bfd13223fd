"""A real API server takes what every way of installing applies, and finds nothing to warn of."""

from __future__ import annotations

import subprocess

import pytest
import trio
import yaml

from ambient.kube.core import objects
from ambientctl.manifests import bundle
from istiod_lite.core import waypoint_objects
from istiod_lite.core.facts import MeshFacts
from istiod_lite.core.waypoint_objects import WaypointPlan
from tests.kube.servers import documents
from tests.manifests.test_ways_in import kubectl_minor

STRICT_MINOR = 25
PROFILES = bundle.profiles()


async def kubectl(server, *words, stdin="", check=True):
    command = ["kubectl", "--kubeconfig", server.kubeconfig("admin", server.admin_token), *words]
    done = await trio.run_process(
        command, stdin=stdin.encode(), capture_stdout=True, capture_stderr=True, check=False
    )
    assert not check or done.returncode == 0, done.stderr.decode()
    return subprocess.CompletedProcess(
        command, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def installation(profile):
    """Without the Prometheus Operator's kinds, which only its own definitions know."""
    values = bundle.choose([bundle.profile(profile), {"components": {"monitoring": False}}])
    return bundle.objects(values)


@pytest.fixture
async def server(real_server, tmp_path):
    said = await trio.run_process(
        ["kubectl", "version", "--client", "-o", "json"], capture_stdout=True
    )
    if kubectl_minor(said.stdout) < STRICT_MINOR:
        pytest.skip("kubectl before 1.25 has no --validate=strict")
    real_server.folder = tmp_path
    async with real_server.admin() as kube:
        await real_server.prepare(kube)
    return real_server


@pytest.mark.kube
@pytest.mark.parametrize("profile", PROFILES)
async def test_every_profile_passes_validation_without_a_warning(server, profile):
    text = yaml.safe_dump_all(installation(profile))
    words = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
    done = await kubectl(server, *words, "--validate=strict", stdin=text)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(installation(profile))


@pytest.mark.kube
async def test_the_observability_pack_passes_validation_in_a_restricted_namespace(server):
    done = await kubectl(server, "kustomize", "manifests/observability")
    await kubectl(server, "create", "namespace", "watched", check=False)
    await kubectl(server, "label", "--overwrite", "namespace", "watched",
                  "pod-security.kubernetes.io/warn=restricted")  # fmt: skip
    text = done.stdout.replace("namespace: istio-system", "namespace: watched")
    words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    done = await kubectl(server, *words, stdin=text)
    assert done.stderr == ""
    for name in ("prometheus", "grafana", "otel-collector", "jaeger"):
        assert f"deployment.apps/{name} serverside-applied" in done.stdout


@pytest.mark.kube
async def test_applying_twice_changes_nothing(server):
    text = yaml.safe_dump_all(installation("default"))
    words = ("apply", "--server-side", "--force-conflicts", "-f", "-", "-o", "name")

    async def versions():
        done = await kubectl(server, "get", "-f", "-", "-o", "yaml", stdin=text)
        items = yaml.safe_load(done.stdout)["items"]
        return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in items}

    await kubectl(server, *words, stdin=text)
    before = await versions()
    await kubectl(server, *words, stdin=text)
    try:
        assert await versions() == before
    finally:
        rest = [each for each in installation("default") if each["kind"] != "Namespace"]
        await kubectl(server, "delete", "--wait=false", "-f", "-", stdin=yaml.safe_dump_all(rest))


def istiod():
    (deployment,) = (
        each for each in documents("manifests/base/istiod.yaml") if each["kind"] == "Deployment"
    )
    return deployment


def waypoint():
    gateway = objects.decode(
        {
            "metadata": {"name": "waypoint", "namespace": "shop", "uid": "u"},
            "spec": {"gatewayClassName": "istio-waypoint"},
        },
        objects.Gateway,
    )
    plan = WaypointPlan(
        facts=MeshFacts(), image="i", command=("waypoint",), discovery_address="istiod:15012"
    )
    made = waypoint_objects.deployment(gateway, plan)
    del made["metadata"]["ownerReferences"]
    return {"apiVersion": "apps/v1", "kind": "Deployment", **made}


@pytest.mark.kube
@pytest.mark.parametrize("deployment", [istiod(), waypoint()], ids=["istiod", "waypoint"])
async def test_it_runs_in_a_restricted_namespace(server, deployment):
    await kubectl(server, "create", "namespace", "strict", check=False)
    await kubectl(server, "label", "--overwrite", "namespace", "strict",
                  "pod-security.kubernetes.io/warn=restricted")  # fmt: skip
    deployment["metadata"]["namespace"] = "strict"
    text = yaml.safe_dump(deployment)
    done = await kubectl(server, "apply", "--dry-run=server", "-f", "-", stdin=text)
    assert done.stderr == ""


@pytest.mark.kube
async def test_a_mistyped_field_would_be_found(server):
    text = yaml.safe_dump_all(installation("default")).replace("maxUnavailable: 25%", "maxGone: 1")
    words = ("apply", "--server-side", "--dry-run=server", "-f", "-", "--force-conflicts")
    done = await kubectl(server, *words, "--validate=strict", stdin=text, check=False)
    assert "maxGone" in done.stderr
