"""What values may be, for us and for Helm."""

from __future__ import annotations

from typing import Any

import pytest

from ambient.api.errors import MeshError
from ambientctl.manifests import bundle, schema
from ambientctl.manifests.values import parse_set

WRONG = {
    "istiod.replicas=0": "at least 1",
    "ztunnel.workers=many": "a share of the cores",
    "ztunnel.workers=-1": "a share of the cores",
    "logFormat=text": "one of json, plain",
    "imagePullPolicy=Sometimes": "one of Always, IfNotPresent, Never",
    "cni.redirectionBackend=iptables": "one of nftables, ebpf, auto",
    "cni.binDir=opt/cni/bin": "a path from the root",
    "global.platform=aks": "one of gke, k3d,",
    "revision=1.0": "a DNS label",
    "image=": "an image",
    "controlPlane.address=istiod:15012": "an address",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_value_that_cannot_be_is_named_with_what_can(text: str) -> None:
    with pytest.raises(MeshError, match=text.partition("=")[0]) as failed:
        bundle.choose([parse_set(text)])
    assert WRONG[text] in failed.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "ztunnel.workers=50%",
        "ztunnel.workers=0",
        "revision=canary-2",
        "image=registry:5000/mesh@sha256:" + "0" * 64,
        "global.platform=gke",
    ],
)
def test_values_that_can_be(text: str) -> None:
    bundle.choose([parse_set(text)])


def test_every_rule_is_about_a_value() -> None:
    assert set(schema.RULES) <= {choice.path for choice in bundle.choices()}


def test_each_choice_is_in_the_schema_and_nothing_else_is_let_in() -> None:
    made = schema.schema(bundle.choices())
    for choice in bundle.choices():
        level: dict[str, Any] = made
        for key in choice.path.split("."):
            assert level["additionalProperties"] is False
            level = level["properties"][key]
        assert level["type"], choice.path
    assert made["properties"]["istiod"]["properties"]["replicas"]["minimum"] == 1
