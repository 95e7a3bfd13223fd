"""The node's policy of routing, in a real kernel."""

import os
import subprocess
from ipaddress import ip_address

import pytest

from ambient.net.io import branch_routes, net_settings
from ambient.net.io.netns import Netns

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace of its own"),
]

POD, POD6 = ip_address("10.9.0.5"), ip_address("2001:db8::5")


def ip(*command, net="branch"):
    done = subprocess.run(["ip", "-n", net, *command], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def netns():
    """A node with two pods as Amazon's plugin makes them, in a table beyond 255."""
    subprocess.run(["ip", "netns", "add", "branch"], check=True)
    ip("link", "add", "vlan1", "type", "bridge")
    ip("link", "set", "vlan1", "up")
    for version, to in (("-4", POD), ("-6", POD6)):
        ip(version, "route", "add", f"{to}", "dev", "vlan1", "table", "1001")
        ip(version, "rule", "add", "iif", "vlan1", "lookup", "1001", "pref", "10")
    opened = Netns.open("/run/netns/branch")
    net_settings.write(opened, {branch_routes.EARLY_DEMUX: b"0"})
    yield opened
    opened.close()
    subprocess.run(["ip", "netns", "del", "branch"], check=True)


def rules():
    return [
        " ".join(line.split())
        for version in ("-4", "-6")
        for line in ip(version, "rule").splitlines()
    ]


def test_both_versions_of_ip(netns):
    before = rules()
    assert branch_routes.keep(netns, [POD, POD6])
    assert sorted(set(rules()) - set(before)) == [
        "512: from all to 10.9.0.5 lookup 1001 proto 57",
        "512: from all to 2001:db8::5 lookup 1001 proto 57",
        "9: from all iif vlan1 lookup local proto 57",
    ]
    assert not branch_routes.keep(netns, [POD, POD6]), "a second time changes nothing"
    assert len(branch_routes.present(netns)) == 4
    assert branch_routes.keep(netns, [POD6])
    assert branch_routes.keep(netns, [])
    assert rules() == before


def test_only_where_the_operator_has_prepared_the_node_for_such_pods(netns):
    net_settings.write(netns, {branch_routes.EARLY_DEMUX: b"1"})
    assert not branch_routes.keep(netns, [POD, POD6])
    assert branch_routes.present(netns) == []
