"""Calls of the container runtime, good and bad."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.core.reply import CniError, Code
from cni_plugin.core.request import parse

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;K8S_POD_UID=u-1",
}
CONF: dict[str, Any] = {"cniVersion": "1.0.0", "name": "pods", "type": "ambient-cni"}


def conf(**changes: Any) -> bytes:
    return json.dumps({**CONF, **changes}).encode()


def test_a_pod_is_read_from_arguments_and_previous_result() -> None:
    ips = [{"address": "10.0.0.2/24", "interface": 0}, {"address": "fd00::2/64"}]
    request = parse(ENV, conf(prevResult={"cniVersion": "1.0.0", "ips": ips}))
    assert (request.pod, request.pod_uid) == ("shop/web", "u-1")
    assert request.ips == ["10.0.0.2", "fd00::2"]
    assert request.configuration.run_dir == "/var/run/istio-cni"
    assert not request.configuration.start_without_agent


def test_outside_kubernetes_there_is_no_pod() -> None:
    request = parse({**ENV, "CNI_ARGS": ""}, conf())
    assert (request.pod_name, request.pod_namespace) == ("", "")


def test_del_needs_no_namespace() -> None:
    env = {**ENV, "CNI_COMMAND": "DEL"}
    del env["CNI_NETNS"]
    assert parse(env, conf()).container_id == "c0ffee"


@pytest.mark.parametrize(
    ("env", "raw", "code", "reason"),
    [
        ({"CNI_COMMAND": "FLY"}, conf(), Code.BAD_ENVIRONMENT, "'FLY'"),
        ({"CNI_NETNS": ""}, conf(), Code.BAD_ENVIRONMENT, "CNI_NETNS"),
        ({"CNI_CONTAINERID": "../x"}, conf(), Code.BAD_ENVIRONMENT, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": "a/b"}, conf(), Code.BAD_ENVIRONMENT, "CNI_IFNAME"),
        ({"CNI_IFNAME": "x" * 16}, conf(), Code.BAD_ENVIRONMENT, "CNI_IFNAME"),
        ({"CNI_ARGS": "nonsense"}, conf(), Code.BAD_ENVIRONMENT, "'nonsense'"),
        ({"CNI_ARGS": "K8S_POD_UID=../../x"}, conf(), Code.BAD_ENVIRONMENT, "K8S_POD_UID"),
        ({}, b"", Code.UNDECODABLE, "not JSON"),
        ({}, b'{"cniVersion": ', Code.UNDECODABLE, "not JSON"),
        ({}, b"[]", Code.UNDECODABLE, "not a JSON object"),
        ({}, b"[" * 100_000, Code.UNDECODABLE, "not JSON"),
        ({}, conf(prevResult=7), Code.UNDECODABLE, "prevResult"),
        ({}, conf(prevResult={"ips": [{}]}), Code.UNDECODABLE, "prevResult.ips"),
        ({}, conf(cniVersion="0.2.0"), Code.INCOMPATIBLE_VERSION, "0.2.0"),
        ({}, conf(cniVersion=1), Code.BAD_CONFIGURATION, "cniVersion"),
        ({}, conf(if_agent_absent="panic"), Code.BAD_CONFIGURATION, "'panic'"),
        ({}, conf(exclude_namespaces="kube-system"), Code.BAD_CONFIGURATION, "exclude_namespaces"),
        ({"CNI_COMMAND": "CHECK"}, conf(cniVersion="0.3.1"), Code.INCOMPATIBLE_VERSION, "CHECK"),
        ({"CNI_COMMAND": "GC"}, conf(), Code.INCOMPATIBLE_VERSION, "GC"),
        ({"CNI_COMMAND": "STATUS"}, conf(), Code.INCOMPATIBLE_VERSION, "STATUS"),
    ],
)
def test_a_bad_call_gets_its_code(env: dict[str, str], raw: bytes, code: int, reason: str) -> None:
    with pytest.raises(CniError, match=reason) as refused:
        parse({**ENV, **env}, raw)
    assert refused.value.code == code


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["cniVersion", "name", "prevResult", "ips", "address"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_input_is_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(CniError):
        parse(ENV, raw)
