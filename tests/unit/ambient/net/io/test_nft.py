"""Rules in a real kernel, with ``nft`` and ``ip`` as judges."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator

import pytest

from ambient.api.errors import MeshError
from ambient.net.core.rule_diff import AddChain, AddRule, AddTable
from ambient.net.core.rules import ABSENT, Chain, Options, Rule, Ruleset, draining, enrolled
from ambient.net.io import netns as netns_module
from ambient.net.io import nft
from ambient.net.io.netns import Netns

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root in a namespace (tests/sandbox)"),
]

NAT = """
table inet istio-ambient-nat {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip saddr 169.254.7.127 meta l4proto tcp counter accept comment "health probes"
    ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff meta l4proto tcp counter accept \
comment "health probes"
    iifname != "lo" tcp flags syn / fin,syn,rst,ack tcp dport != 15008 \
meta mark & 0x00000fff != 0x00000539 counter redirect to :15006 \
comment "inbound traffic that is not HBONE"
  }
  chain output {
    type nat hook output priority -100; policy accept;
    oifname != "lo" meta mark & 0x00000fff != 0x00000539 tcp flags syn / fin,syn,rst,ack \
counter redirect to :15001 comment "outbound traffic"
  }
}
"""


@pytest.fixture
def pod() -> Iterator[Netns]:
    """A new network namespace with lo up; it ends with its descriptor."""
    made: list[Netns] = []

    def make() -> None:
        assert netns_module._libc.unshare(netns_module.CLONE_NEWNET) == 0
        made.append(Netns.current())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (netns,) = made
    inside(netns, "ip", "link", "set", "lo", "up")
    yield netns
    netns.close()


def inside(netns: Netns, *command: str) -> str:
    path = f"/proc/{os.getpid()}/fd/{netns.fd}"
    done = subprocess.run(["nsenter", f"--net={path}", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ruleset(netns: Netns) -> str:
    return inside(netns, "nft", "list", "ruleset")


def plain(text: str) -> str:
    return " ".join(re.sub(r"packets \d+ bytes \d+ ?", "", text).split())


def test_nft_reads_what_we_wrote(pod: Netns) -> None:
    nft.apply(pod, enrolled(Options()))
    assert plain(NAT) in plain(ruleset(pod))
    for version in ("-4", "-6"):
        assert "32764:\tfrom all fwmark 0x111/0xfff lookup 100" in inside(
            pod, "ip", version, "rule"
        )
        route = inside(pod, "ip", version, "route", "show", "table", "100")
        assert route.startswith("local default dev lo")


@pytest.mark.parametrize(
    "wanted",
    [
        enrolled(Options()),
        enrolled(Options(ipv6=False, inbound=False)),
        enrolled(Options(dns=True, virtual_interfaces=("tap0",))),
        draining(Options()),
    ],
)
def test_a_second_time_changes_nothing(pod: Netns, wanted: Ruleset) -> None:
    assert nft.apply(pod, wanted)
    before = inside(pod, "nft", "-a", "list", "ruleset")
    assert not nft.apply(pod, wanted)
    assert inside(pod, "nft", "-a", "list", "ruleset") == before, "not even a handle is another"
    assert nft.apply(pod, ABSENT)
    assert ruleset(pod) == ""
    assert "0x111" not in inside(pod, "ip", "rule") + inside(pod, "ip", "-6", "rule")


def test_other_peoples_tables_are_not_ours(pod: Netns) -> None:
    inside(pod, "nft", "add table inet mine; add chain inet mine c; add rule inet mine c accept")
    mine = ruleset(pod)
    nft.apply(pod, enrolled(Options()))
    nft.apply(pod, ABSENT)
    assert ruleset(pod) == mine


def test_edited_rules_are_put_right_and_the_rest_is_not_touched(pod: Netns) -> None:
    wanted = enrolled(Options())
    nft.apply(pod, wanted)
    good = plain(ruleset(pod))
    inside(pod, "nft", "insert rule inet istio-ambient-nat output tcp dport 22 accept")
    inside(pod, "ip", "-6", "rule", "del", "fwmark", "0x111/0xfff")
    change = nft.apply(pod, wanted)
    assert {type(command).__name__ for command in change.commands} == {"FlushChain", "AddRule"}
    assert {each.version for each in change.add_routing} == {6}
    assert plain(ruleset(pod)) == good


def test_istios_own_rules_are_replaced_in_one_go(pod: Netns) -> None:
    inside(
        pod,
        "nft",
        "add table inet istio-ambient-nat;"
        "add chain inet istio-ambient-nat istio-output;"
        "add chain inet istio-ambient-nat output { type nat hook output priority -100; };"
        "add rule inet istio-ambient-nat output jump istio-output",
    )
    nft.apply(pod, enrolled(Options()))
    assert "istio-output" not in ruleset(pod)
    assert plain(NAT) in plain(ruleset(pod))


def test_ipv6_that_is_switched_off_is_not_missed(pod: Netns) -> None:
    inside(pod, "sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
    nft.apply(pod, enrolled(Options()))
    assert "0x111" in inside(pod, "ip", "rule")
    assert not nft.apply(pod, enrolled(Options()))


def test_what_the_kernel_lacks_is_named_with_the_remedy(pod: Netns) -> None:
    commands = (
        AddTable("istio-ambient-nat"),
        AddChain("istio-ambient-nat", Chain("output", "flux", "output", 0)),
        AddRule("istio-ambient-nat", "output", Rule("", ())),
    )
    with pytest.raises(MeshError, match="chain output of type flux") as refused:
        pod.run(nft._commit, commands)
    assert "CONFIG_NFT_NAT" in refused.value.hint
    assert ruleset(pod) == "", "a transaction that fails leaves nothing behind"
