"""Requests of ``ambientctl enroll``: read whole, or refused by name."""

from __future__ import annotations

import json

import pytest

from cni_plugin.core.guest_request import BadGuestError, Enroll, Unenroll, parse

GOOD = {
    "name": "billing",
    "namespace": "shop",
    "service_account": "billing",
    "device": 4,
    "inode": 4026532000,
    "pid": 17,
}


def test_a_request_that_is_complete() -> None:
    assert parse(json.dumps(GOOD).encode(), Enroll).pid == 17
    assert parse(b'{"name": "billing", "namespace": "shop"}', Unenroll).name == "billing"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "../../etc"}, "name '../../etc' is no Kubernetes name"),
        ({"namespace": ""}, "namespace '' is no Kubernetes name"),
        ({"service_account": "a" * 64}, "is no Kubernetes name"),
        ({"netns": "/run/netns/vm"}, "one of a process, a namespace's path and a control group"),
        ({"pid": 0}, "one of a process, a namespace's path and a control group"),
        ({"cgroup": "/sys/fs/cgroup/x"}, "one of a process"),
        ({"inode": "x"}, "cannot be read"),
        ({"shell": "rm"}, "cannot be read"),
    ],
)
def test_a_request_that_is_not(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BadGuestError) as refused:
        parse(json.dumps(GOOD | change).encode(), Enroll)
    assert reason in str(refused.value)


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_rubbish_is_named_as_such(raw: bytes) -> None:
    with pytest.raises(BadGuestError, match="cannot be read"):
        parse(raw, Unenroll)
