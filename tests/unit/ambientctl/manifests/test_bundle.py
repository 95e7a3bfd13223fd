"""What an installation consists of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ambient.api.errors import MeshError
from ambientctl.manifests import bundle, schema
from ambientctl.manifests.values import put


def names(objects: list[dict[str, Any]]) -> list[str]:
    return [f"{each['kind']}/{each['metadata']['name']}" for each in objects]


def test_the_namespace_comes_first_and_components_only_when_asked_for() -> None:
    plain = names(bundle.objects(bundle.defaults()))
    assert plain[0] == "Namespace/istio-system"
    assert {"Deployment/istiod", "DaemonSet/ztunnel", "DaemonSet/istio-cni-node"} < set(plain)
    more = names(bundle.objects(bundle.choose([{"components": {"monitoring": True}}])))
    assert set(more) - set(plain) == {
        "ServiceMonitor/istiod",
        "PodMonitor/ztunnel",
        "PodMonitor/istio-cni-node",
        "PodMonitor/waypoints",
    }


def test_a_revision_is_a_second_control_plane_and_nothing_else() -> None:
    objects = bundle.objects(bundle.choose([{"revision": "canary"}]))
    assert names(objects) == [
        "Service/istiod-canary",
        "Deployment/istiod-canary",
        "PodDisruptionBudget/istiod-canary",
        "HorizontalPodAutoscaler/istiod-canary",
        "ValidatingWebhookConfiguration/istio-validator-istio-system-canary",
    ]
    assert objects[0]["spec"]["selector"]["istio.io/rev"] == "canary"


def test_another_namespace_leaves_no_trace_of_the_usual_one() -> None:
    assert "istio-system" not in str(bundle.objects(bundle.defaults(), "mesh"))


def test_no_value_is_marked_that_reaches_nothing() -> None:
    """Each choice changes what is rendered."""
    others = {
        "global.platform": "k3s", "imagePullPolicy": "Never", "logFormat": "plain",
        "cni.ifAgentAbsent": "start", "cni.repair": "evict", "cni.redirectionBackend": "auto",
        "cni.netDir": "/other", "cni.binDir": "/other", "cni.netnsDir": "/other",
        "controlPlane.address": "https://other:1",
    }  # fmt: skip
    for choice in bundle.choices():
        other: Any = others.get(choice.path, "other")
        match choice.default:
            case bool():
                other = not choice.default
            case int():
                other = choice.default + 7
            case list():
                other = [{"operator": "Exists", "key": "other"}]
            case dict():
                other = {"other": "1"}
        chosen: dict[str, Any] = {}
        put(chosen, choice.path, other)
        changed = bundle.objects(bundle.choose([chosen]))
        assert changed != bundle.objects(bundle.defaults()), choice.path


def test_profiles() -> None:
    assert bundle.profiles()[0] == "default"
    assert {"minimal", "production", *schema.PLATFORMS} <= set(bundle.profiles())
    for name in bundle.profiles():
        bundle.choose([bundle.profile(name)])
    with pytest.raises(MeshError, match="there is no profile demo") as failed:
        bundle.profile("demo")
    assert "minimal" in failed.value.hint


def test_a_platform_is_below_what_is_chosen() -> None:
    """In whatever order they are given, as with Istio's value of this name."""
    values = bundle.choose([{"cni": {"netDir": "/mine"}}, {"global": {"platform": "k3s"}}])
    assert values["cni"]["netDir"] == "/mine"
    assert values["cni"]["binDir"] == bundle.profile("k3s")["cni"]["binDir"]


def test_labels_of_pods_do_not_touch_the_selector() -> None:
    chosen = {"ztunnel": {"podLabels": {"team": "net"}, "podAnnotations": {"a/b": 1}}}
    (tunnel,) = (
        each for each in bundle.objects(bundle.choose([chosen]))
        if each["kind"] == "DaemonSet" and each["metadata"]["name"] == "ztunnel"
    )  # fmt: skip
    pod = tunnel["spec"]["template"]["metadata"]
    assert pod["labels"]["team"] == "net"
    assert pod["annotations"]["a/b"] == "1"
    assert tunnel["spec"]["selector"]["matchLabels"].items() <= pod["labels"].items()
    assert "team" not in tunnel["spec"]["selector"]["matchLabels"]


def test_definitions_have_every_kind_of_istio_that_is_read() -> None:
    groups = {each["spec"]["group"] for each in bundle.definitions()}
    assert {"security.istio.io", "networking.istio.io", "gateway.networking.k8s.io"} <= groups


def test_every_folder_of_components_has_a_switch() -> None:
    folders = {path.name for path in (bundle.FOLDER / "components").iterdir()}
    assert folders == set(bundle.COMPONENTS)


def test_each_switched_capability_and_path_has_its_reason() -> None:
    """What asks the node for something says why, in a comment of its own block."""
    for path in bundle.base_files():
        text = path.read_text()
        for line in re.findall(r"^.*add: \[.*$", text, re.MULTILINE):
            block = text[: text.index(line)].rpartition("securityContext:")[2]
            for capability in re.findall(r"[A-Z]+_[A-Z_]+", line):
                assert capability in block, (path, capability)


def test_the_folder_is_the_projects() -> None:
    assert bundle.FOLDER.resolve() == Path("manifests").resolve()
