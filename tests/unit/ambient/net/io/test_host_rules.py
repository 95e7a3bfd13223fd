"""The node's rules and address sets in a real kernel, with ``nft`` as judge."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from ambient.net.core import host_rules
from ambient.net.core.rule_diff import DropElement, PutElement
from ambient.net.io import nft
from ambient.net.io.netns import Netns

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root in a namespace (tests/sandbox)"),
]

V4, V6, OTHER = ip_address("10.244.1.2"), ip_address("fd00::2"), ip_address("10.244.1.9")


@pytest.fixture
def node() -> Iterator[Netns]:
    """The test's own namespace, as a node's; clean again afterwards."""
    with Netns.current() as netns:
        yield netns
        nft.apply(netns, host_rules.ABSENT)
        assert listing() == ""


def listing() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout


def test_nft_reads_the_sets_and_rules_that_we_wrote(node: Netns) -> None:
    wanted = host_rules.present(1000, {V4: "uid-a", V6: "uid-b"}, ipv6=True)
    assert nft.apply(node, wanted)
    text = listing()
    assert 'elements = { 10.244.1.2 comment "uid-a" }' in text
    assert 'elements = { fd00::2 comment "uid-b" }' in text
    assert "type nat hook postrouting priority srcnat - 1; policy accept;" in text
    assert "meta skuid 1000 meta mark & 0x00000fff != 0x00000539" in text, "no tunnel is a kubelet"
    assert (
        "ip daddr @istio-inpod-probes-v4 counter packets 0 bytes 0 snat ip to 169.254.7.127" in text
    )
    assert "snat ip6 to fd16:9254:7127:1337:ffff:ffff:ffff:ffff" in text
    assert "ip saddr 169.254.7.127 counter packets 0 bytes 0 drop" in text
    assert nft.read(node).tables == wanted.tables
    assert not nft.apply(node, wanted), "a second time there is nothing to do"


def test_only_the_difference_is_written(node: Netns) -> None:
    nft.apply(node, host_rules.present(0, {V4: "uid-a", OTHER: "uid-c"}, ipv6=True))
    change = nft.apply(node, host_rules.present(0, {V4: "uid-a", V6: "uid-b"}, ipv6=True))
    assert [type(command) for command in change.commands] == [DropElement, PutElement]


def test_an_address_that_was_reused_belongs_to_the_new_pod(node: Netns) -> None:
    """nf_tables alone would keep the old comment, and the old pod's end would take the entry."""
    nft.apply(node, host_rules.present(0, {V4: "uid-old"}, ipv6=True))
    nft.apply(node, host_rules.present(0, {V4: "uid-new"}, ipv6=True))
    assert host_rules.probed(nft.read(node)) == {V4: "uid-new"}


def test_what_somebody_else_edits_is_put_right_and_other_routing_left_alone(node: Netns) -> None:
    subprocess.run(
        ["ip", "route", "add", "local", "default", "dev", "lo", "table", "100"], check=True
    )
    wanted = host_rules.present(0, {V4: "uid-a"}, ipv6=True)
    nft.apply(node, wanted)
    for command in (
        "flush chain inet istio-ambient-nat postrouting",
        "delete element inet istio-ambient-nat istio-inpod-probes-v4 { 10.244.1.2 }",
        "add element inet istio-ambient-nat istio-inpod-probes-v6 { fd00::9 }",
    ):
        subprocess.run(["nft", *command.split()], check=True)
    nft.apply(node, wanted)
    assert nft.read(node).tables == wanted.tables
    nft.apply(node, host_rules.ABSENT)
    kept = subprocess.run(
        ["ip", "route", "show", "table", "100"], capture_output=True, text=True
    ).stdout
    assert "local default dev lo" in kept
    subprocess.run(["ip", "route", "flush", "table", "100"], check=True)


def test_a_node_full_of_pods_is_one_transaction(node: Netns) -> None:
    many = {ip_address(0x0AF40000 + number): f"uid-{number}" for number in range(1, 501)}
    nft.apply(node, host_rules.present(0, many, ipv6=True))
    assert host_rules.probed(nft.read(node)) == many


def test_without_ipv6_there_is_only_the_set_of_ipv4(node: Netns) -> None:
    nft.apply(node, host_rules.present(0, {V4: "uid-a", V6: "uid-b"}, ipv6=False))
    assert host_rules.probed(nft.read(node)) == {V4: "uid-a"}
    assert "ip6" not in listing()
