"""Requests and answers without a network."""

from __future__ import annotations

import msgspec
import pytest

from ambientctl.local.apiserver.core.api import Api, PodLog
from ambientctl.local.apiserver.core.bootstrap_roles import bootstrap_objects
from ambientctl.local.apiserver.core.rbac import RBAC_GROUP
from ambientctl.local.apiserver.core.requests import read_request
from ambientctl.local.apiserver.core.tokens import TokenAuthority
from ambientctl.local.apiserver.core.watch import Watch
from tests.unit.ambientctl.local.worlds import crd, pod, service, widget, workload

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class Caller:
    """Sends requests to an ``Api`` as the administrator, unless told otherwise."""

    def __init__(self, world):
        authority = TokenAuthority(world.cluster.store, "issuer")
        for role in bootstrap_objects():
            world.create({"apiVersion": f"{RBAC_GROUP}/v1", **role})
        self.api = Api(world.cluster, authority, "secret", lambda: world.now)

    def raw(self, method, target, body=None, *, token="secret", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            headers["authorization"] = f"Bearer {token}"
        data = b"" if body is None else msgspec.json.encode(body)
        return self.api.handle(read_request(method, target, headers, data))

    def __call__(self, method, target, body=None, **more):
        answer = self.raw(method, target, body, **more)
        return answer.status, msgspec.json.decode(answer.body)


@pytest.fixture
def call(world):
    return Caller(world)


PODS = "/api/v1/namespaces/shop/pods"


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version"])
def test_health_and_version_are_public(call, path):
    assert call.raw("GET", path, token="").status == 200


@pytest.mark.parametrize("token", ["", "wrong"])
def test_everything_else_needs_a_known_token(call, token):
    for path in ("/api", PODS, "/openapi/v2"):
        status, body = call("GET", path, token=token)
        assert (status, body["reason"]) == (401, "Unauthorized")


def test_create_get_list_delete(call):
    status, made = call("POST", PODS, pod())
    assert status == 201
    assert call("GET", f"{PODS}/web") == (200, made)
    status, listed = call("GET", PODS)
    assert (listed["kind"], listed["items"]) == ("PodList", [made])
    assert call("DELETE", f"{PODS}/web")[0] == 200
    status, gone = call("GET", f"{PODS}/web")
    assert (status, gone["message"]) == (404, 'pods "web" not found')
    assert gone["details"] == {"name": "web", "group": "", "kind": "pods"}


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "text"),
    [
        ("GET", "/nowhere", None, 404, "could not find the requested resource"),
        ("GET", "/api/v1/gadgets", None, 404, "could not find the requested resource"),
        ("GET", "/apis/nowhere/v1", None, 404, "could not find the requested resource"),
        ("POST", "/api/v1/pods", {}, 405, "does not allow this method"),
        ("PUT", PODS, {}, 405, "does not allow this method"),
        ("POST", PODS, None, 400, "needs a body"),
        ("POST", PODS, [], 400, "must be one object"),
        ("POST", PODS, {"kind": "Service"}, 400, "cannot be handled as a Pod"),
        ("POST", PODS, {"apiVersion": "v2"}, 400, "does not match the expected API version"),
        ("POST", PODS, {"metadata": 3}, 400, "metadata must be an object"),
        ("POST", PODS, {"metadata": {"namespace": "x"}}, 400, "does not match the namespace"),
        ("POST", f"{PODS}?dryRun=Some", {}, 400, "invalid dryRun"),
        ("POST", f"{PODS}?fieldValidation=Maybe", {}, 400, "invalid fieldValidation"),
        ("GET", f"{PODS}?limit=x", None, 400, "parameter limit"),
        ("GET", f"{PODS}/web/proxy", None, 404, "could not find"),
        ("GET", f"{PODS}?watch=1&resourceVersion=x", None, 400, "resourceVersion"),
    ],
)
def test_requests_that_cannot_be_met(call, method, target, body, status, text):
    answer = call(method, target, body)
    assert answer[0] == status
    assert text in answer[1]["message"]


def test_pages(call, world):
    for name in "abcde":
        world.create(service(name))
    seen, token = [], ""
    while True:
        path = f"/api/v1/services?limit=2&continue={token}"
        _, page = call("GET", path)
        seen += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert seen == list("abcde")
    assert call("GET", "/api/v1/services?continue=x")[0] == 410


def test_selectors_in_a_list(call, world):
    for name in ("a", "b"):
        world.create(pod(name))
    _, found = call("GET", "/api/v1/pods?labelSelector=app%20in%20(b)")
    assert [p["metadata"]["name"] for p in found["items"]] == ["b"]
    _, found = call("GET", "/api/v1/pods?fieldSelector=metadata.name%3Da")
    assert [p["metadata"]["name"] for p in found["items"]] == ["a"]


def test_a_table_for_kubectl(call, world):
    world.create(service())
    _, shown = call("GET", "/api/v1/services", accept=TABLE)
    assert (shown["kind"], shown["rows"][0]["cells"][0]) == ("Table", "web")
    _, shown = call("GET", "/api/v1/namespaces/shop/services/web", accept=TABLE)
    assert shown["kind"] == "Table"


def test_metadata_only(call, world):
    world.create(service())
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    _, shown = call("GET", "/api/v1/services", accept=accept)
    assert shown["kind"] == "PartialObjectMetadataList"
    assert "spec" not in shown["items"][0]


def test_watches_of_a_collection_and_of_one_object(call):
    for target in (f"{PODS}?watch=true&timeoutSeconds=7", f"{PODS}/web?watch=1"):
        assert isinstance(call.raw("GET", target), Watch)
    assert call.raw("GET", f"{PODS}?watch=true&timeoutSeconds=7").options.timeout_s == 7


def test_a_log(call, world):
    world.create(pod())
    wish = call.raw("GET", f"{PODS}/web/log?follow=true&tailLines=5")
    assert wish == PodLog("shop", "web", "app", True, False, False, 5, None, None)
    assert call("GET", f"{PODS}/web/log?container=x")[1]["message"].startswith("container x is not")
    two = [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]
    world.create(pod("two", containers=two))
    assert "choose one of: [a b]" in call("GET", f"{PODS}/two/log")[1]["message"]


def test_patch_and_scale(call, world):
    world.create(workload())
    path = "/apis/apps/v1/namespaces/shop/deployments/web"
    merge = {"content_type": "application/merge-patch+json"}
    assert call("PATCH", path, {"spec": {"replicas": 2}}, **merge)[1]["spec"]["replicas"] == 2
    assert call("GET", f"{path}/scale")[1]["spec"] == {"replicas": 2}
    assert call("PATCH", f"{path}/scale", {"spec": {"replicas": 3}}, **merge)[0] == 200
    scale = call("GET", f"{path}/scale")[1]
    assert call("PUT", f"{path}/scale", {**scale, "spec": {"replicas": 4}})[0] == 200
    assert call("PUT", f"{path}/scale", scale)[0] == 409
    assert call("PUT", f"{path}/scale", {"spec": {"replicas": -1}})[0] == 422
    assert call("GET", path)[1]["spec"]["replicas"] == 4


def test_an_apply_needs_a_manager_and_says_when_it_created(call):
    path = "/api/v1/namespaces/shop/services/web"
    apply = {"content_type": "application/apply-patch+yaml"}
    assert call("PATCH", path, service(), **apply)[0] == 400
    assert call("PATCH", f"{path}?fieldManager=me", service(), **apply)[0] == 201
    assert call("PATCH", f"{path}?fieldManager=me", service(), **apply)[0] == 200


def test_binding_and_eviction(call, world):
    world.create(pod())
    assert call("POST", f"{PODS}/web/binding", {"target": {"name": "node-1"}})[0] == 201
    assert call("POST", f"{PODS}/web/binding", {"target": {"name": "node-2"}})[0] == 409
    assert world.find(pod())["spec"]["nodeName"] == "node-1"
    assert call("POST", f"{PODS}/web/eviction", {})[0] == 201
    assert world.find(pod())["metadata"]["deletionTimestamp"]


def test_a_collection_is_deleted_by_selector(call, world):
    for name in ("a", "b"):
        world.create(pod(name))
    assert call("DELETE", f"{PODS}?labelSelector=app%3Da")[0] == 200
    assert [p["metadata"]["name"] for p in world.cluster.store.objects(("", "pods"))] == ["b"]


def test_a_warning_goes_along(call):
    wrong = {**service(), "extra": 1}
    answer = call.raw("POST", "/api/v1/namespaces/shop/services", wrong)
    assert answer.warnings == ('unknown field "extra"',)


def token_of(call, account="default", **spec):
    path = f"/api/v1/namespaces/shop/serviceaccounts/{account}/token"
    status, body = call("POST", path, {"spec": spec})
    assert status == 201
    return body["status"]["token"]


REVIEW = "/apis/authentication.k8s.io/v1/tokenreviews"


def test_a_service_account_token_opens_the_api(call, world):
    world.create(pod())
    status, who = call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {},
                       token=token_of(call))  # fmt: skip
    assert status == 201
    assert who["status"]["userInfo"]["username"] == "system:serviceaccount:shop:default"
    assert call("GET", PODS, token=token_of(call, audiences=["istio-ca"]))[0] == 401


def test_a_token_review(call, world):
    world.create(pod())
    token = token_of(call, audiences=["istio-ca"])
    spec = {"token": token, "audiences": ["istio-ca"]}
    _, body = call("POST", REVIEW, {"spec": spec})
    assert body["status"]["authenticated"] is True
    assert body["status"]["audiences"] == ["istio-ca"]
    assert body["status"]["user"]["groups"][0] == "system:serviceaccounts"
    for wrong in ({"token": token}, {"token": "x"}, {}):
        _, body = call("POST", REVIEW, {"spec": wrong})
        assert body["status"]["authenticated"] is False
        assert body["status"]["error"]


def test_a_review_is_asked_and_never_listed(call):
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    asked = {"resourceAttributes": {"verb": "get", "resource": "pods"}}
    assert call("POST", path, {"spec": asked})[1]["status"]["allowed"] is True
    assert call("GET", path)[0] == 405


def test_discovery_plain_and_aggregated(call):
    assert call("GET", "/api")[1]["versions"] == ["v1"]
    groups = {g["name"]: g for g in call("GET", "/apis")[1]["groups"]}
    assert groups["apps"]["preferredVersion"]["groupVersion"] == "apps/v1"
    names = {r["name"] for r in call("GET", "/apis/apps/v1")[1]["resources"]}
    assert {"deployments", "deployments/scale", "deployments/status"} <= names
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    answer = call.raw("GET", "/apis", accept=accept)
    assert answer.media_type == accept
    assert len(msgspec.json.decode(answer.body)["items"]) == len(groups)


def test_a_definition_shows_up_in_discovery_and_its_versions_share_objects(call, world):
    world.create(crd())
    _, group = call("GET", "/apis/example.com")
    assert [v["version"] for v in group["versions"]] == ["v1", "v1beta1"]
    world.create(widget(color="red"))
    _, other = call("GET", "/apis/example.com/v1beta1/namespaces/shop/widgets/a")
    assert (other["apiVersion"], other["spec"]["color"]) == ("example.com/v1beta1", "red")
    _, index = call("GET", "/openapi/v3")
    assert "apis/example.com/v1" in index["paths"]
    _, document = call("GET", "/openapi/v3/apis/example.com/v1")
    assert "com.example.v1.Widget" in document["components"]["schemas"]


def test_openapi_tells_that_fields_are_checked_here(call):
    _, document = call("GET", "/openapi/v3/apis/apps/v1")
    path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    parameters = {p["name"] for p in document["paths"][path]["patch"]["parameters"]}
    assert {"fieldValidation", "dryRun"} <= parameters
    assert call("GET", "/openapi/v2")[1]["swagger"] == "2.0"
    answer = call.raw("GET", "/openapi/v2", accept="application/x@v1.0+protobuf")
    assert b"fieldValidation" in answer.body
    assert call("GET", "/openapi/v4")[0] == 404


def test_both_spellings_of_an_event_are_one_object(call):
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "web"},
        "message": "hello",
        "reason": "Greeting",
    }
    assert call("POST", "/api/v1/namespaces/shop/events", event)[0] == 201
    _, found = call("GET", "/apis/events.k8s.io/v1/namespaces/shop/events/e")
    assert (found["apiVersion"], found["note"]) == ("events.k8s.io/v1", "hello")
    assert found["regarding"]["name"] == "web"
