"""Reading objects: what matters is read, the rest ignored, mistakes are named."""

import pytest

from ambient.kube.core.objects import (
    AuthorizationPolicy,
    Gateway,
    ObjectError,
    PeerAuthentication,
    Pod,
    Service,
    decode,
    selects,
)

META = {"name": "a", "namespace": "shop"}


def test_a_pod_as_the_api_server_writes_it():
    pod = decode(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**META, "labels": None, "unknown": 1},
            "spec": {"serviceAccountName": "web", "hostNetwork": True, "nodeName": "n1"},
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        },
        Pod,
    )
    assert pod.ips == ("10.0.0.1", "fd00::1")
    assert (pod.service_account, pod.ready, pod.finished) == ("web", True, False)
    assert pod.metadata.label("app") is None


def test_headless_and_empty_addresses_are_no_addresses():
    spec = {"clusterIP": "None", "clusterIPs": ["None", ""]}
    assert decode({"metadata": META, "spec": spec}, Service).virtual_ips == ()


@pytest.mark.parametrize(
    ("kind", "obj", "message"),
    [
        (Pod, {"metadata": META, "spec": {"hostNetwork": "yes"}}, "Pod shop/a: .*spec.hostNetwork"),
        (Gateway, {"metadata": META}, "Gateway shop/a: .*`spec`"),
        (
            AuthorizationPolicy,
            {"metadata": META, "spec": {"rules": [{"from": [{"source": {"principals": "x"}}]}]}},
            r"AuthorizationPolicy shop/a: .*rules\[0\].*principals",
        ),
        (PeerAuthentication, {"metadata": {"name": "m"}, "spec": {"mtls": 1}}, "m: .*spec.mtls"),
        (Pod, {"metadata": 7}, r"Pod \(no name\)"),
    ],
)
def test_a_malformed_object_names_itself_and_the_field(kind, obj, message):
    with pytest.raises(ObjectError, match=message):
        decode(obj, kind)


@pytest.mark.parametrize(
    ("selector", "labels", "want"),
    [
        (None, None, True),
        ({}, {"a": "b"}, True),
        ({"a": "b"}, None, False),
        ({"a": "b"}, {"a": "b", "c": "d"}, True),
        ({"a": "b"}, {"a": "x"}, False),
    ],
)
def test_selects(selector, labels, want):
    assert selects(selector, labels) is want
