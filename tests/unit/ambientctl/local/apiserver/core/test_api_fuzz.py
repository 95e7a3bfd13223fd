"""Whatever a client sends, it gets an answer: never an exception, never a 500."""

from __future__ import annotations

import contextlib
import copy
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from ambientctl.local.apiserver.core.api import Api
from ambientctl.local.apiserver.core.requests import Response, read_request
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.core.tokens import TokenAuthority
from ambientctl.local.controllers import (
    daemon_sets,
    deployments,
    endpoint_slices,
    endpoints,
    garbage,
    namespaces,
    replica_sets,
    scheduler,
)
from tests.unit.ambientctl.local.controllers.settling import Settling
from tests.unit.ambientctl.local.worlds import (
    World,
    crd,
    node,
    pod,
    service,
    widget,
    workload,
)

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
            ]
        }
    }
}
RICH = pod(
    affinity=AFFINITY,
    tolerations=[{"key": "a", "operator": "Exists"}],
    volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
    containers=[
        {
            "name": "app",
            "image": "app:v1",
            "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "readinessProbe": {"httpGet": {"port": 80}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }
    ],
) | {
    "status": {
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "app", "state": {"terminated": {"exitCode": 1}}}],
    }
}
SELECTOR = {
    "matchLabels": {"app": "web"},
    "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}],
}

DEPLOYMENT = workload(selector=SELECTOR, strategy={"type": "RollingUpdate"})

SEEDS = [
    ("/api/v1/namespaces/shop/pods", RICH),
    ("/api/v1/namespaces/shop/services", service()),
    ("/api/v1/nodes", node("node-1", taints=[{"key": "a", "effect": "NoSchedule"}])),
    ("/apis/apps/v1/namespaces/shop/deployments", DEPLOYMENT),
    ("/apis/apps/v1/namespaces/shop/daemonsets", workload("DaemonSet")),
    ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd()),
    ("/apis/example.com/v1/namespaces/shop/widgets", widget(color="red", parts=[{"name": "a"}])),
    ("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "x", "audiences": ["a"]}}),
    ("/api/v1/namespaces/shop/serviceaccounts/default/token",
     {"spec": {"audiences": ["a"], "boundObjectRef": {"kind": "Pod", "name": "web"}}}),
]  # fmt: skip
PATCHES = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
]
odd = st.sampled_from([None, True, -1, 1 << 70, 1.5, "", "x", "None", [], [None], {}, {"a": None}])


def places(value, path=()):
    """Every place in a JSON value, as a path."""
    yield path
    match value:
        case dict():
            for key, inner in value.items():
                yield from places(inner, (*path, key))
        case list():
            for i, inner in enumerate(value):
                yield from places(inner, (*path, i))


def with_value(obj, path, value):
    if not path:
        return value
    changed = copy.deepcopy(obj)
    target = changed
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return changed


@st.composite
def requests(draw):
    path, seed = draw(st.sampled_from(SEEDS))
    body = seed
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(places(body))))
        body = with_value(body, place, draw(odd))
    name = seed.get("metadata", {}).get("name", "x")
    method = draw(st.sampled_from(["POST", "PUT", "PATCH", "DELETE"]))
    media_type = draw(st.sampled_from(PATCHES)) if method == "PATCH" else "application/json"
    target = path if method == "POST" else f"{path}/{name}"
    if method != "POST" and draw(st.booleans()):
        target += draw(st.sampled_from(["/status", "/scale", "/binding"]))
    headers = {"authorization": "Bearer secret", "content-type": media_type}
    data = json.dumps(body).encode()
    return read_request(method, f"{target}?fieldManager=fuzz&force=true", headers, data)


def furnished():
    world = World()
    for _, seed in SEEDS:
        if "kind" in seed:
            world.create(seed)
    return world


@settings(max_examples=400, deadline=None)
@given(requests())
def test_every_request_is_answered(request):
    world = furnished()
    api = Api(world.cluster, TokenAuthority(world.cluster.store, "i"), "secret", lambda: world.now)
    answer = api.handle(request)
    assert isinstance(answer, Response)
    assert answer.status < 500
    assert json.loads(answer.body)


@settings(max_examples=150, deadline=None)
@given(requests())
def test_the_controllers_survive_whatever_was_accepted(request):
    world = furnished()
    api = Api(world.cluster, TokenAuthority(world.cluster.store, "i"), "secret", lambda: world.now)
    mesh = Settling(
        world,
        namespaces.controller("PEM"),
        deployments.CONTROLLER,
        replica_sets.CONTROLLER,
        daemon_sets.CONTROLLER,
        scheduler.CONTROLLER,
        endpoint_slices.CONTROLLER,
        endpoints.CONTROLLER,
        garbage.controller(),
    )
    api.handle(request)
    # A refusal is an answer that controllers live with; anything else would be a mistake of ours.
    with contextlib.suppress(ApiError):
        mesh.settle()
    headers = {"authorization": "Bearer secret", "accept": TABLE}
    for path, _ in SEEDS[:7]:
        shown = api.handle(read_request("GET", path, headers, b""))
        assert shown.status in {200, 404}  # the definition itself may be gone


@given(st.binary(max_size=60), st.sampled_from(["application/json", "application/yaml"]))
def test_any_bytes_are_answered(body, media_type):
    world = World()
    api = Api(world.cluster, TokenAuthority(world.cluster.store, "i"), "secret", lambda: world.now)
    headers = {"authorization": "Bearer secret", "content-type": media_type}
    request = read_request("POST", "/api/v1/namespaces/shop/pods", headers, body)
    assert 400 <= api.handle(request).status < 500
