from __future__ import annotations

import pytest

from ambient.kube.core.objects import Pod, decode
from ambient.net.core.rules import Options
from cni_plugin.core.backend import (
    BACKEND_ANNOTATION,
    Backend,
    Capture,
    Wish,
    capture_of,
    choose,
)

SETTINGS = Capture(Options(ipv6=False, dns=True), "auto")


def pod(**annotations: str) -> Pod:
    names = {"backend": BACKEND_ANNOTATION, "dns": "ambient.istio.io/dns-capture"}
    names["bypass"] = "ambient.istio.io/bypass-inbound-capture"
    names["interfaces"] = "istio.io/reroute-virtual-interfaces"
    found = {names[key]: value for key, value in annotations.items()}
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "annotations": found}
    return decode({"metadata": metadata, "spec": {}, "status": {}}, Pod)


def test_without_annotations_the_settings_count() -> None:
    assert capture_of(pod(), SETTINGS) == SETTINGS


def test_annotations_go_before_the_settings() -> None:
    changed = capture_of(pod(backend="nftables", dns="false", bypass="true"), SETTINGS)
    assert changed == Capture(Options(ipv6=False, dns=False, inbound=False), "nftables")


@pytest.mark.parametrize("nonsense", ["iptables", "EBPF", ""])
def test_a_backend_that_nobody_knows_counts_as_absent(nonsense: str) -> None:
    assert capture_of(pod(backend=nonsense), SETTINGS).wish == "auto"


@pytest.mark.parametrize(
    ("wish", "unavailable", "chosen"),
    [
        ("nftables", "", Backend.NFTABLES),
        ("nftables", "no bcc", Backend.NFTABLES),
        ("ebpf", "", Backend.EBPF),
        ("auto", "", Backend.EBPF),
        ("ebpf", "no bcc", Backend.NFTABLES),
        ("auto", "no bcc", Backend.NFTABLES),
    ],
)
def test_what_a_pod_gets(wish: Wish, unavailable: str, chosen: Backend) -> None:
    choice = choose(Capture(Options(), wish), unavailable, "install it")
    assert choice.backend is chosen
    fell_back = wish != "nftables" and bool(unavailable)
    assert choice.reason == (unavailable if fell_back else "")
    assert choice.hint == ("install it" if fell_back else "")


def test_forwarded_traffic_is_out_of_ebpf_s_reach() -> None:
    options = capture_of(pod(interfaces="tap0"), SETTINGS).options
    choice = choose(Capture(options, "ebpf"), "")
    assert choice.backend is Backend.NFTABLES
    assert "virtual interfaces" in choice.reason
    assert "reroute-virtual-interfaces" in choice.hint
