"""The node's CNI configuration, and what a plugin is given."""

from __future__ import annotations

import json

import pytest

from ambientctl.local.kubelet.cni import (
    CniError,
    ConfigList,
    Sandbox,
    addresses,
    plugin_input,
    read_config,
)
from ambientctl.local.runtime import Process

SANDBOX = Sandbox(
    container_id="c1",
    namespace="shop",
    name="web-1",
    uid="u1",
    process=Process(17),
    port_mappings=[{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}],
)


def test_the_first_valid_file_in_name_order_is_taken(tmp_path):
    (tmp_path / "05-broken.conflist").write_text("{")
    (tmp_path / "06-nameless.conflist").write_text('{"plugins": [{"type": "a"}]}')
    (tmp_path / "10-good.conflist").write_text('{"name": "n", "plugins": [{"type": "ptp"}]}')
    (tmp_path / "20-late.conf").write_text('{"name": "m", "type": "bridge"}')
    (tmp_path / "00-notes.txt").write_text("not a configuration")
    assert read_config(tmp_path).name == "n"


def test_a_single_plugin_file_is_a_list_of_one(tmp_path):
    (tmp_path / "10.conf").write_text('{"name": "m", "type": "bridge", "cniVersion": "0.4.0"}')
    found = read_config(tmp_path)
    assert (found.cniVersion, [p["type"] for p in found.plugins]) == ("0.4.0", ["bridge"])


def test_without_a_valid_file_the_reasons_are_told(tmp_path):
    (tmp_path / "05-broken.conflist").write_text("{")
    with pytest.raises(CniError, match=r"no valid CNI configuration.*05-broken"):
        read_config(tmp_path)


def test_a_plugin_gets_version_name_previous_result_and_its_capability():
    config = ConfigList("n", [], "1.0.0")
    plugin = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
    given = json.loads(plugin_input(config, plugin, SANDBOX, {"ips": []}))
    assert given == {
        "type": "portmap",
        "snat": True,
        "cniVersion": "1.0.0",
        "name": "n",
        "prevResult": {"ips": []},
        "runtimeConfig": {"portMappings": SANDBOX.port_mappings},
    }


def test_the_arguments_say_which_pod():
    assert SANDBOX.arguments() == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;"
        "K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"
    )


def test_addresses_come_without_their_prefix():
    assert addresses({"ips": [{"address": "10.244.1.2/24"}]}) == ["10.244.1.2"]
    assert addresses({}) == []
