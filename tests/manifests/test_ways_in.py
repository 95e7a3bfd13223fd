"""Three ways to install give the same objects: kustomize, our own rendering, and Helm."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ambient.api.errors import MeshError
from ambientctl.manifests import bundle, chart, schema
from ambientctl.manifests.values import parse_set

OVERLAYS = {name: f"manifests/overlays/{name}" for name in bundle.profiles()}
OVERLAYS[bundle.DEFAULT_PROFILE] = "manifests/base"


FIRST_MINOR = 21
"""Of kubectl 1.x: the first with kustomize 4. Debian 12 has 1.20."""


def kubectl_minor(said: bytes) -> int:
    return int(json.loads(said)["clientVersion"]["minor"].rstrip("+"))


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects in one form: env in order of names, volumes too (kustomize moves what it merges)."""
    found = {}
    for each in objects:
        spec = each.get("spec", {})
        pod = spec.get("template", {}).get("spec", {}) if isinstance(spec, dict) else {}
        for container in pod.get("containers", []):
            container["env"].sort(key=lambda entry: entry["name"])
            container["volumeMounts"].sort(key=lambda entry: entry["mountPath"])
        pod.get("volumes", []).sort(key=lambda entry: entry["name"])
        found[each["kind"], each["metadata"]["name"]] = each
    return found


def kustomized(folder: str) -> list[dict[str, Any]]:
    said = subprocess.check_output(["kubectl", "version", "--client", "-o", "json"])
    if folder != OVERLAYS[bundle.DEFAULT_PROFILE] and kubectl_minor(said) < FIRST_MINOR:
        pytest.skip("the kustomize of kubectl before 1.21 knows neither components nor patches")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("profile", bundle.profiles())
def test_an_overlay_is_its_profile(profile: str) -> None:
    ours = bundle.objects(bundle.choose([bundle.profile(profile)]))
    assert by_name(kustomized(OVERLAYS[profile])) == by_name(ours)


def helm_template(*words: str) -> subprocess.CompletedProcess[str]:
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("helm is missing; `go install helm.sh/helm/v3/cmd/helm@latest` builds one")
    command = [helm, "template", "mesh", str(chart.CHART), "--kube-version", "1.34.0"]
    return subprocess.run([*command, *words], capture_output=True, text=True)


@pytest.mark.parametrize("profile", bundle.profiles())
@pytest.mark.parametrize("namespace", ["istio-system", "mesh"])
def test_the_chart_is_the_profile(profile: str, namespace: str) -> None:
    words = ["-f", f"manifests/profiles/{profile}.yaml"]
    if profile in schema.PLATFORMS:
        words = ["--set", f"{schema.PLATFORM}={profile}"]
    elif profile == bundle.DEFAULT_PROFILE:
        words = []
    done = helm_template("--namespace", namespace, *words)
    assert done.returncode == 0, done.stderr
    ours = bundle.objects(bundle.choose([bundle.profile(profile)]), namespace)
    expected = [each for each in ours if each["kind"] != "Namespace"]
    theirs = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert by_name(theirs) == by_name(expected)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("istiod.replica=3", "additional properties 'replica' not allowed"),
        ("istiod.replicas=three", "'/istiod/replicas': got string, want integer"),
        ("logFormat=text", "'text' does not match pattern"),
        ("global.platform=aks", "'/global/platform'"),
    ],
)
def test_the_chart_refuses_what_we_refuse(wrong: str, said: str) -> None:
    with pytest.raises(MeshError):
        bundle.choose([parse_set(wrong)])
    done = helm_template("--set", wrong)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_chart_is_current() -> None:
    there = {
        str(path.relative_to(chart.CHART)): path.read_text()
        for path in chart.CHART.rglob("*")
        if path.is_file() and not path.parent.is_symlink()
    }
    assert there == chart.files(), "run `make chart`"


def test_every_definition_is_in_the_kustomization() -> None:
    listed = yaml.safe_load(Path("manifests/crds/Kustomization").read_text())["resources"]
    assert listed == sorted(path.name for path in Path("manifests/crds").glob("*.yaml"))


def test_gateway_apis_guard_lets_definitions_be_upgraded() -> None:
    """Its ValidatingAdmissionPolicy "safe-upgrades" refuses those without release and channel."""
    guarded = 0
    for path in Path("manifests/crds").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())
        if definition["spec"]["group"] == "gateway.networking.k8s.io":
            annotations = definition["metadata"]["annotations"]
            assert annotations["gateway.networking.k8s.io/channel"] == "standard", path
            assert annotations["gateway.networking.k8s.io/bundle-version"] >= "v1.5", path
            guarded += 1
    assert guarded >= 7
