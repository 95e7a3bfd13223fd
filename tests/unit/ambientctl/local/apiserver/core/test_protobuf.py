"""Protobuf bodies: bytes that kubectl 1.32 sent, and what broken bytes get."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientctl.local.apiserver.core.protobuf import decode
from ambientctl.local.apiserver.core.status import ApiError

# Captured from `kubectl create token default` (v1.32.4, -v=8).
TOKEN_REQUEST = bytes.fromhex(
    "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631"
    "120c546f6b656e52657175657374121a"
    "0a100a0012001a0022002a0032003800420012001a040a0012001a002200"
)


def test_a_captured_token_request():
    assert decode(TOKEN_REQUEST) == {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {},
        "spec": {},
        "status": {},
    }


def nested(field: int, payload: bytes) -> bytes:
    tag = field << 3 | 2
    head = [tag] if tag < 0x80 else [tag & 0x7F | 0x80, tag >> 7]
    return bytes([*head, len(payload)]) + payload


def number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    names = nested(1, api_version.encode()) + nested(2, kind.encode())
    return b"k8s\0" + nested(1, names) + nested(2, raw)


def test_every_shape_of_a_field():
    metadata = nested(1, b"web") + nested(11, nested(1, b"app") + nested(2, b"web"))
    port = nested(2, b"TCP") + number(3, 80) + nested(4, number(1, 1) + nested(3, b"http"))
    spec = nested(1, port) + nested(2, nested(1, b"a") + nested(2, b"b"))
    found = decode(envelope("v1", "Service", nested(1, metadata) + nested(2, spec)))
    assert found["metadata"] == {"name": "web", "labels": {"app": "web"}}
    assert found["spec"] == {
        "ports": [{"protocol": "TCP", "port": 80, "targetPort": "http"}],
        "selector": {"a": "b"},
    }


def test_a_secret_keeps_its_bytes_as_base64():
    raw = nested(2, nested(1, b"k") + nested(2, b"\x00\xff"))
    assert decode(envelope("v1", "Secret", raw))["data"] == {"k": "AP8="}


def test_zero_replicas_are_meant_and_other_zeros_are_not():
    found = decode(envelope("apps/v1", "Deployment", nested(2, number(1, 0) + number(5, 0))))
    assert found["spec"] == {"replicas": 0}


def test_inlined_messages_open_up():
    volume = nested(1, b"v") + nested(2, nested(19, nested(1, nested(1, b"cm"))))
    raw = nested(2, nested(1, volume))
    assert decode(envelope("v1", "Pod", raw))["spec"]["volumes"] == [
        {"name": "v", "configMap": {"name": "cm"}}
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"k8s\0\xff", envelope("v1", "Nothing", b""), TOKEN_REQUEST[:-3]]
)
def test_broken_bytes_are_a_400(body):
    with pytest.raises(ApiError) as caught:
        decode(body)
    assert caught.value.code == 400


@given(st.binary(max_size=200), st.sampled_from(["Pod", "Service", "Event", "Node"]))
def test_any_bytes_are_an_object_or_a_400(raw, kind):
    with contextlib.suppress(ApiError):
        assert decode(envelope("v1", kind, raw[:100]))["kind"] == kind
