"""The field tables: what they reject, drop and accept."""

from __future__ import annotations

import copy

import pytest

from ambientctl.local.apiserver.core import builtin_types
from ambientctl.local.apiserver.core.kinds import BUILTIN
from ambientctl.local.apiserver.core.status import ApiError

KINDS = {(kind.group, kind.kind): kind for kind in BUILTIN}
DEPLOYMENT = KINDS["apps", "Deployment"]


@pytest.mark.parametrize("kind", BUILTIN, ids=lambda kind: f"{kind.group}/{kind.kind}")
def test_every_built_in_kind_is_described(kind):
    if kind.kind != "CustomResourceDefinition":
        assert builtin_types.message_name(kind.group, kind.kind)


def test_every_type_of_a_field_exists():
    scalars = {"string", "bytes", "bool", "int32", "int64", "double", "time"}
    scalars |= {"quantity", "intOrString", "raw", "fields"}
    for name, message in builtin_types._messages().items():
        for field in message.values():
            known = field.type in scalars or builtin_types.message(field.type) is not None
            assert known, (name, field)


def test_inlined_fields_stand_among_the_others():
    assert {"name", "configMap", "hostPath"} <= builtin_types.json_fields("core.Volume").keys()
    assert "volumeSource" not in builtin_types.json_fields("core.Volume")


def deployment(**spec):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"replicas": "3"}, "string into Go struct field DeploymentSpec.spec.replicas of type"),
        ({"replicas": 1 << 31}, "number 2147483648 into Go struct field DeploymentSpec.spec"),
        ({"paused": "yes"}, "string into Go struct field DeploymentSpec.spec.paused of type bool"),
        ({"template": []}, "array into Go struct field DeploymentSpec.spec.template"),
        ({"template": {"spec": {"containers": {}}}},
         "Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"),
        ({"template": {"metadata": {"labels": {"a": 1}}}},
         "number 1 into Go struct field ObjectMeta.spec.template.metadata.labels.a of type string"),
        ({"strategy": {"rollingUpdate": {"maxSurge": True}}}, "of type intstr.IntOrString"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_one_clear_line(spec, text):
    with pytest.raises(ApiError) as caught:
        builtin_types.conform(DEPLOYMENT, deployment(**spec))
    assert caught.value.code == 400
    start = 'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal '
    assert caught.value.message.startswith(start)
    assert text in caught.value.message


def test_unknown_fields_and_nulls_are_dropped_and_the_unknown_named():
    obj = deployment(replicas=None, template={"metadata": {"creationTimestamp": None}, "foo": 1})
    obj["extra"] = 1
    assert sorted(builtin_types.conform(DEPLOYMENT, obj)) == ["extra", "spec.template.foo"]
    assert obj == deployment(template={"metadata": {}})


def test_a_good_object_is_left_alone():
    obj = deployment(
        replicas=2,
        strategy={"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
        template={"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}},
    )
    before = copy.deepcopy(obj)
    assert builtin_types.conform(DEPLOYMENT, obj) == []
    assert obj == before
