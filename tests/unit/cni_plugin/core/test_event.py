"""The plugin's event, in our form and in Istio's."""

from __future__ import annotations

import json

import pytest

from cni_plugin.core.event import Added, BadEventError, parse


def test_ours() -> None:
    raw = {
        "uid": "u",
        "name": "web",
        "namespace": "shop",
        "container_id": "c",
        "netns": "/run/netns/x",
        "device": 4,
        "inode": 7,
        "ips": ["10.0.0.2", "fd00::2"],
    }
    want = Added("web", "shop", "/run/netns/x", "u", ("10.0.0.2", "fd00::2"), 4, 7)
    assert parse(json.dumps(raw).encode()) == want


def test_istios() -> None:
    raw = {
        "Netns": "/var/run/netns/cni-1234",
        "PodName": "web",
        "PodNamespace": "shop",
        "IPs": [{"Interface": 0, "Address": {"IP": "10.0.0.2", "Mask": "////AA=="}, "Gateway": ""}],
    }
    want = Added("web", "shop", "/var/run/netns/cni-1234", ips=("10.0.0.2",))
    assert parse(json.dumps(raw).encode()) == want
    assert parse(json.dumps({**raw, "IPs": None}).encode()).ips == ()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "cannot be read"),
        (b"{}", "name"),
        (b'{"name":"web","namespace":"shop","netns":""}', "lacks"),
        (b'{"name":"web","namespace":"shop","netns":"/n","ips":["10.0.0"]}', "'10.0.0'"),
        (b'{"PodName":"web","PodNamespace":7,"Netns":"/n"}', "PodNamespace"),
        (b'{"name":"web"} trailing', "cannot be read"),
        (b'{"name":' + b"[" * 100_000, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(raw: bytes, reason: str) -> None:
    with pytest.raises(BadEventError, match=reason):
        parse(raw)
