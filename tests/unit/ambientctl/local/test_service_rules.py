"""Services and EndpointSlices in, nftables text out; the kernel is the judge of the text."""

from __future__ import annotations

import subprocess

import pytest

from ambientctl.local.service_rules import ServicePort, Target, ruleset, service_ports


def service(name="web", address="10.96.1.1", ports=None):
    ports = ports or [{"name": "http", "port": 80}]
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": ports},
    }


def endpoints(*addresses, ready=None, name="web", port="http"):
    conditions = {} if ready is None else {"ready": ready}
    return {
        "metadata": {
            "name": f"{name}-x",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": port, "port": 9080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [a], "conditions": conditions} for a in addresses],
    }


def test_a_port_has_the_ready_endpoints_of_all_slices():
    slices = [endpoints("10.244.1.2"), endpoints("10.244.2.2"), endpoints("10.9.9.9", ready=False)]
    (port,) = service_ports([service()], slices)
    assert port.targets == (Target("10.244.1.2", 9080), Target("10.244.2.2", 9080))


def test_ports_are_matched_by_name():
    (port,) = service_ports([service()], [endpoints("10.244.1.2", port="other")])
    assert port.targets == ()


def test_a_headless_service_has_no_rules():
    assert service_ports([service(address="None")], [endpoints("10.244.1.2")]) == []


def test_another_namespaces_slice_does_not_count():
    foreign = endpoints("10.244.1.2")
    foreign["metadata"]["namespace"] = "else"
    (port,) = service_ports([service()], [foreign])
    assert port.targets == ()


@pytest.mark.netns
def test_the_kernel_takes_the_rules_twice():
    rules = ruleset(
        [
            ServicePort("10.96.0.10", "udp", 53, (Target("172.30.0.1", 53),)),
            ServicePort("10.96.1.1", "tcp", 80, (Target("10.1.1.1", 1), Target("10.1.1.2", 1))),
            ServicePort("10.96.1.2", "tcp", 80, ()),
        ]
    )
    command = ["unshare", "--net", "sh", "-ec", "nft -f - <<END\n" + rules + rules + "END\n"]
    assert subprocess.run(command, check=False, capture_output=True).stderr == b""


@pytest.mark.netns
def test_no_service_at_all_is_valid():
    command = ["unshare", "--net", "sh", "-ec", "nft -f - <<END\n" + ruleset([]) + "END\n"]
    assert subprocess.run(command, check=False, capture_output=True).stderr == b""
