"""References in a pod's specification."""

from __future__ import annotations

import pytest

from ambientctl.local.kubelet.environment import build_environment, command_line
from ambientctl.local.kubelet.fields import FieldError, expand, field_value, resource_value

POD = {
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "uid": "u-1",
        "labels": {"app": "web", "b": 'say "x"'},
    },
    "spec": {"nodeName": "node-1", "serviceAccountName": "web"},
}
STATUS = {"podIP": "10.244.1.2", "hostIP": "172.30.0.11"}


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("metadata.name", "web-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['absent']", ""),
        ("metadata.labels", 'app="web"\nb="say \\"x\\""'),
        ("spec.nodeName", "node-1"),
        ("status.podIP", "10.244.1.2"),
        ("status.hostIP", "172.30.0.11"),
    ],
)
def test_fields(path, want):
    assert field_value(POD, STATUS, path) == want


def test_an_unknown_field_is_named():
    with pytest.raises(FieldError, match=r"spec\.replicas"):
        field_value(POD, STATUS, "spec.replicas")


@pytest.mark.parametrize(
    ("text", "want"),
    [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("$A ${A}", "$A ${A}"), ("", "")],
)
def test_expand(text, want):
    assert expand(text, {"A": "1"}) == want


def test_resources_are_handed_on():
    container = {"resources": {"limits": {"memory": "64Mi", "cpu": "1500m"}}}
    assert resource_value(container, "limits.memory") == str(64 << 20)
    assert resource_value(container, "limits.cpu") == "2"
    assert resource_value(container, "requests.memory") == str(64 << 20)
    assert resource_value({}, "limits.cpu") == "0"


def find(kind, namespace, name):
    known = {"settings": {"kind": "ConfigMap", "data": {"LEVEL": "info"}}}
    return known.get(name)


def test_the_environment_of_a_container():
    container = {
        "name": "c",
        "command": ["run", "$(WHO)"],
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "S_"}],
        "env": [
            {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "WHO", "value": "$(ME).$(S_LEVEL)"},
            {
                "name": "MAYBE",
                "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k", "optional": True}},
            },
        ],
    }
    values = build_environment(POD, container, STATUS, find)
    assert values["WHO"] == "web-1.info"
    assert "MAYBE" not in values
    assert command_line(container, values) == ["run", "web-1.info"]


@pytest.mark.parametrize(
    ("container", "complaint"),
    [
        ({"name": "c"}, "has no command"),
        ({"name": "c", "envFrom": [{"configMapRef": {"name": "no"}}]}, "shop/no does not exist"),
        (
            {
                "name": "c",
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "settings", "key": "X"}}}
                ],
            },
            "has no key 'X'",
        ),
    ],
)
def test_what_is_missing_is_named(container, complaint):
    with pytest.raises(FieldError, match=complaint):
        command_line(container, build_environment(POD, container, STATUS, find))
