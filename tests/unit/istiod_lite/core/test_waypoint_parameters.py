"""How a waypoint is run: settings, defaults of its class, its own ConfigMap."""

import pytest

from ambient.kube.core import objects
from istiod_lite.core import waypoint_parameters as made
from istiod_lite.core.waypoint_parameters import Parameters, ParametersError
from tests.unit.istiod_lite.objects import gateway, meta


def config_map(**data):
    return {"metadata": meta("size", "shop"), "data": data}


def test_later_config_maps_win_and_overlays_merge():
    first = config_map(replicas="3", graceSeconds="60", deployment="spec: {a: 1, b: 1}")
    second = config_map(replicas="4", spread="required", deployment="spec: {b: 2}")
    assert made.read([first, second], Parameters()) == Parameters(
        replicas=4,
        grace_seconds=60,
        spread="required",
        overlays={"deployment": {"spec": {"a": 1, "b": 2}}},
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"replicas": "many"}, "replicas='many'"),
        ({"replicas": "-1"}, "replicas='-1'"),
        ({"spread": "evenly"}, "spread='evenly'"),
        ({"replica": "3"}, "key replica is unknown"),
        ({"deployment": "{"}, "deployment is no YAML"),
        ({"deployment": "[1]"}, "deployment is no object"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_remedy(data, words):
    with pytest.raises(ParametersError) as caught:
        made.read([config_map(**data)], Parameters())
    assert "ConfigMap shop/size" in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("ref", "name", "problem"),
    [
        (None, "", False),
        ({"group": "", "kind": "ConfigMap", "name": "size"}, "size", False),
        ({"group": "x", "kind": "Size", "name": "size"}, "", True),
    ],
)
def test_reference(ref, name, problem):
    raw = gateway("wp", "shop")
    raw["spec"]["infrastructure"] = {"parametersRef": ref} if ref else {}
    found = objects.decode(raw, objects.Gateway)
    assert made.reference(found) == name
    assert bool(made.problem_of_reference(found)) is problem


@pytest.mark.parametrize(
    ("parameters", "want"),
    [
        (Parameters(), False),
        (Parameters(replicas=2, max_replicas=2), False),
        (Parameters(replicas=2, max_replicas=3), True),
        (Parameters(overlays={"horizontalPodAutoscaler": {}}), True),
    ],
)
def test_autoscaled(parameters, want):
    assert parameters.autoscaled is want
