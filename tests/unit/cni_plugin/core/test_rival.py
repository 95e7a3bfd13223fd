"""Who else claims the CNI folder."""

from __future__ import annotations

import json

import pytest

from cni_plugin.core import conflist, rival

OURS = (
    b'{"name": "pods", "plugins": [{"type": "ptp"}, {"type": "ambient-cni", "owned_file": true}]}'
)


def chain(*types: str) -> bytes:
    return json.dumps({"name": "pods", "plugins": [{"type": kind} for kind in types]}).encode()


@pytest.mark.parametrize(
    ("types", "name"),
    [
        (("cilium-cni", "ambient-cni"), "Cilium"),
        (("calico", "portmap"), "Calico"),
        (("aws-cni",), "the AWS VPC CNI"),
        (("multus",), "Multus"),
        (("ptp",), "another program"),
    ],
)
def test_the_writer_of_a_chain_is_known_by_its_plugins(types: tuple[str, ...], name: str) -> None:
    found = rival.find({"10-x.conflist": chain(*types)})
    assert found.name == name
    wanted = "cni.exclusive=false" if name == "Cilium" else "ISTIO_OWNED_CNI_CONFIG=true"
    assert wanted in found.hint


def test_a_folder_without_a_chain_tells_nothing() -> None:
    assert rival.find({}) is rival.UNKNOWN


def test_cilium_is_known_by_our_file_under_another_name() -> None:
    files = {
        "05-cilium.conflist": chain("cilium-cni"),
        "02-istio-cni.conflist.cilium_bak": OURS,
        "87-podman.conflist.cilium_bak": chain("bridge"),
    }
    assert rival.put_aside(files) == ["02-istio-cni.conflist.cilium_bak"]
    assert rival.find(files) is rival.CILIUM


def test_pain_11_what_cilium_has_put_aside_does_not_come_back_after_an_uninstallation() -> None:
    chained = {"10-flannel.conflist.cilium_bak": chain("flannel", "ambient-cni")}
    edit = conflist.remove({"02-istio-cni.conflist.cilium_bak": OURS, **chained})
    assert edit.delete == ("02-istio-cni.conflist.cilium_bak",)
    (text,) = edit.write.values()
    assert [plugin["type"] for plugin in json.loads(text)["plugins"]] == ["flannel"]
