"""Validating webhooks without a network: who is asked what, and what the answers do."""

from __future__ import annotations

import base64

import msgspec
import pytest

from ambientctl.local.apiserver.core.admitted_writes import MAX_ROUNDS, Admission
from ambientctl.local.apiserver.core.api import Api
from ambientctl.local.apiserver.core.requests import read_request
from ambientctl.local.apiserver.core.tokens import TokenAuthority
from ambientctl.local.apiserver.core.webhooks import Outcome
from tests.unit.ambientctl.local.worlds import crd, pod, service, widget

MAPS = "/api/v1/namespaces/shop/configmaps"
MERGE = {"content-type": "application/merge-patch+json"}
RULE = {"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}  # fmt: skip


def webhook(name="check.example.com", rules=(RULE,), **more):
    return {
        "name": name,
        "clientConfig": {"url": "https://127.0.0.1:9/validate"},
        "rules": list(rules),
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }


def configuration(*webhooks):
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "checks"},
        "webhooks": list(webhooks),
    }


def config_map(**data):
    return {"metadata": {"name": "size", "namespace": "shop"}, "data": data}


class Caller:
    """Sends requests; keeps what webhooks were asked, and answers for them."""

    def __init__(self, world):
        authority = TokenAuthority(world.cluster.store, "issuer")
        self.api = Api(world.cluster, authority, "secret", lambda: world.now)
        self.asked = []
        self.between = lambda: None
        """What others do while a webhook is being asked."""
        self.reply = lambda request: {"uid": request["uid"], "allowed": True}

    def __call__(self, method, target, body=None, headers=()):
        headers = {"authorization": "Bearer secret", **dict(headers)}
        data = b"" if body is None else msgspec.json.encode(body)
        answer = self.api.handle(read_request(method, target, headers, data))
        while isinstance(answer, Admission):
            self.between()
            answer = answer.resume([self._outcome(call) for call in answer.calls])
        self.warnings = answer.warnings
        return answer.status, msgspec.json.decode(answer.body)

    def _outcome(self, call):
        request = msgspec.json.decode(call.body)["request"]
        self.asked.append((call, request))
        found = self.reply(request)
        if isinstance(found, Outcome):
            return found
        return Outcome(msgspec.json.encode({"response": found}))


@pytest.fixture
def call(world):
    return Caller(world)


def test_a_webhook_sees_the_object_as_it_would_be_stored(call, world):
    world.create(configuration(webhook()))
    assert call("POST", MAPS, config_map(a="1"))[0] == 201
    ((asked, request),) = call.asked
    assert asked.webhook == "check.example.com"
    assert asked.destination.url == "https://127.0.0.1:9/validate"
    assert (asked.timeout_s, asked.is_fatal) == (10.0, True)
    assert (request["operation"], request["oldObject"]) == ("CREATE", None)
    assert request["object"]["data"] == {"a": "1"}
    assert request["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert (request["name"], request["namespace"], request["dryRun"]) == ("size", "shop", False)
    assert request["userInfo"]["username"] == "kubernetes-admin"
    assert call("PATCH", f"{MAPS}/size", {"data": {"a": "2"}}, MERGE)[0] == 200
    _, request = call.asked[-1]
    assert request["operation"] == "UPDATE"
    assert (request["oldObject"]["data"], request["object"]["data"]) == ({"a": "1"}, {"a": "2"})
    assert call("PUT", f"{MAPS}/size", config_map(a="3"))[1]["data"] == {"a": "3"}


def test_a_refusal_is_told_in_the_webhooks_words_and_nothing_is_stored(call, world):
    world.create(configuration(webhook()))
    call.reply = lambda request: {
        "uid": request["uid"],
        "allowed": False,
        "status": {"message": "data.a: too small"},
        "warnings": ["b is old"],
    }
    status, said = call("POST", MAPS, config_map(a="1"))
    assert (status, said["reason"]) == (403, "Forbidden")
    assert said["message"] == (
        'admission webhook "check.example.com" denied the request: data.a: too small'
    )
    assert call.warnings == ("b is old",)
    assert call("GET", f"{MAPS}/size")[0] == 404


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Outcome(failure="connection refused"), "failed to call webhook: connection refused"),
        (Outcome(b"no json"), "could not get a JSON answer"),
        (Outcome(b"[]"), "the answer holds no response"),
        (Outcome(b'{"response":{"uid":"x","allowed":true}}'), "expected response.uid="),
    ],
)
def test_who_cannot_be_asked_refuses_or_is_passed_by(call, world, reply, why):
    made = world.create(configuration(webhook()))
    call.reply = lambda _: reply
    status, said = call("POST", MAPS, config_map())
    assert (status, said["reason"]) == (500, "InternalError")
    assert f'failed calling webhook "check.example.com": {why}' in said["message"]
    world.update({**made, "webhooks": [webhook(failurePolicy="Ignore")]})
    assert call("POST", MAPS, config_map())[0] == 201


@pytest.mark.parametrize(
    ("rule", "asked"),
    [
        (RULE, True),
        ({**RULE, "operations": ["*"]}, True),
        ({**RULE, "operations": ["UPDATE"]}, False),
        ({**RULE, "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}, True),
        ({**RULE, "resources": ["*/*"]}, True),
        ({**RULE, "resources": ["configmaps/*"]}, True),
        ({**RULE, "resources": ["configmaps/status"]}, False),
        ({**RULE, "resources": ["pods"]}, False),
        ({**RULE, "apiGroups": ["apps"]}, False),
        ({**RULE, "apiVersions": ["v2"]}, False),
        ({**RULE, "scope": "Namespaced"}, True),
        ({**RULE, "scope": "Cluster"}, False),
    ],
)
def test_rules(call, world, rule, asked):
    world.create(configuration(webhook(rules=[rule])))
    assert call("POST", MAPS, config_map())[0] == 201
    assert bool(call.asked) is asked


@pytest.mark.parametrize(
    ("selector", "asked"),
    [
        ({"objectSelector": {"matchLabels": {"check": "yes"}}}, False),
        ({"objectSelector": {"matchLabels": {"app": "web"}}}, True),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}, True),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "bank"}}}, False),
    ],
)
def test_selectors(call, world, selector, asked):
    world.create(configuration(webhook(**selector)))
    body = config_map()
    body["metadata"]["labels"] = {"app": "web"}
    assert call("POST", MAPS, body)[0] == 201
    assert bool(call.asked) is asked


def test_statuses_are_not_asked_about_unless_a_rule_says_so(call, world):
    world.create(pod())
    everything = {**RULE, "resources": ["*"]}
    made = world.create(configuration(webhook(rules=[everything])))
    target = "/api/v1/namespaces/shop/pods/web/status"
    assert call("PATCH", target, {"status": {"phase": "Running"}}, MERGE)[0] == 200
    assert call.asked == []
    world.update({**made, "webhooks": [webhook(rules=[{**RULE, "resources": ["*/status"]}])]})
    assert call("PATCH", target, {"status": {"phase": "Failed"}}, MERGE)[0] == 200
    ((_, request),) = call.asked
    assert (request["subResource"], request["object"]["status"]["phase"]) == ("status", "Failed")


def test_a_deletion_is_asked_about_where_a_rule_says_so(call, world):
    world.create(configuration(webhook(rules=[{**RULE, "operations": ["DELETE"]}])))
    assert call("POST", MAPS, config_map(a="1"))[0] == 201
    call.reply = lambda request: {"uid": request["uid"], "allowed": False}
    status, said = call("DELETE", f"{MAPS}/size")
    assert (status, "without explanation" in said["message"]) == (403, True)
    ((_, request),) = call.asked
    assert (request["operation"], request["object"]) == ("DELETE", None)
    assert request["oldObject"]["data"] == {"a": "1"}
    assert call("GET", f"{MAPS}/size")[0] == 200
    assert call("DELETE", f"{MAPS}/other")[0] == 404


def test_a_broken_configuration_can_always_be_mended(call, world):
    everything = {**RULE, "apiGroups": ["*"], "operations": ["*"], "resources": ["*"]}
    world.create(configuration(webhook(rules=[everything])))
    call.reply = lambda _: Outcome(failure="nobody is there")
    target = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/checks"
    assert call("POST", MAPS, config_map())[0] == 500
    assert call("DELETE", target)[0] == 200
    assert call("POST", MAPS, config_map())[0] == 201


def test_what_changes_under_the_question_is_asked_about_again(call, world):
    """The patch is admitted for the object that it changes, not for one that was there before."""
    world.create(configuration(webhook()))
    made = world.create({"apiVersion": "v1", "kind": "ConfigMap", **config_map(a="1")})
    turns = iter("xyz")

    def between():
        letter = next(turns, None)
        if letter is not None:
            world.update({**made, "data": {"a": letter},
                          "metadata": {**made["metadata"], "resourceVersion": ""}})  # fmt: skip

    call.between = between
    status, stored = call("PATCH", f"{MAPS}/size", {"data": {"b": "2"}}, MERGE)
    assert (status, stored["data"]) == (200, {"a": "z", "b": "2"})
    assert [request["object"]["data"]["a"] for _, request in call.asked] == ["1", "x", "y", "z"]


def test_an_object_that_never_rests_is_a_conflict(call, world):
    world.create(configuration(webhook()))
    made = world.create({"apiVersion": "v1", "kind": "ConfigMap", **config_map(a="1")})
    turns = iter(range(100))

    def between():
        world.update({**made, "data": {"a": str(next(turns))},
                      "metadata": {**made["metadata"], "resourceVersion": ""}})  # fmt: skip

    call.between = between
    assert call("PATCH", f"{MAPS}/size", {"data": {"b": "2"}}, MERGE)[0] == 409
    assert len(call.asked) == MAX_ROUNDS


def test_a_generated_name_does_not_need_a_second_question(call, world):
    world.create(configuration(webhook()))
    status, made = call("POST", MAPS, {"metadata": {"generateName": "size-"}})
    assert (status, made["metadata"]["name"].startswith("size-")) == (201, True)
    assert len(call.asked) == 1


def test_a_dry_run_asks_only_who_has_no_side_effects(call, world):
    world.create(configuration(webhook()))
    assert call("POST", f"{MAPS}?dryRun=All", config_map())[0] == 201
    assert call.asked[0][1]["dryRun"] is True
    assert call("GET", f"{MAPS}/size")[0] == 404


def test_every_version_of_a_resource_is_asked_about(call, world):
    world.create(crd())
    rule = {"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"],
            "resources": ["widgets"]}  # fmt: skip
    made = world.create(configuration(webhook(rules=[rule])))
    body = {**widget(color="red"), "apiVersion": "example.com/v1beta1"}
    target = "/apis/example.com/v1beta1/namespaces/shop/widgets?dryRun=All"
    assert call("POST", target, body)[0] == 201
    ((_, request),) = call.asked
    assert request["requestKind"]["version"] == "v1beta1"
    assert (request["kind"]["version"], request["object"]["apiVersion"]) == (
        "v1", "example.com/v1"
    )  # fmt: skip
    world.update({**made, "webhooks": [webhook(rules=[rule], matchPolicy="Exact")]})
    assert call("POST", target, body)[0] == 201
    assert len(call.asked) == 1


def test_a_service_is_reached_by_a_ready_endpoint(call, world):
    reference = {"service": {"name": "web", "namespace": "shop", "path": "/validate"},
                 "caBundle": base64.b64encode(b"PEM").decode()}  # fmt: skip
    world.create(configuration(webhook(clientConfig=reference, failurePolicy="Ignore")))

    def asked():
        assert call("POST", f"{MAPS}?dryRun=All", config_map())[0] == 201
        return call.asked[-1][0]

    assert (asked().destination, asked().reason) == (None, 'service "web" not found')
    made = world.create(service())
    assert asked().reason == 'no service port 443 found for service "web"'
    ports = [{"name": "https", "port": 443, "targetPort": 15017}]
    world.update({**made, "spec": {**made["spec"], "ports": ports}})
    assert asked().reason == 'no endpoints available for service "web"'
    world.create({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 15017}],
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}},
                      {"addresses": ["10.0.0.2"], "conditions": {"ready": True}}],
    })  # fmt: skip
    destination = asked().destination
    assert destination.url.startswith("https://10.0.0.2:15017/validate?")
    assert (destination.server_name, destination.ca_pem) == ("web.shop.svc", "PEM")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "short"}, "webhooks[0].name"),
        ({"clientConfig": {}}, "webhooks[0].clientConfig"),
        ({"clientConfig": {"url": "http://x"}}, "webhooks[0].clientConfig.url"),
        ({"sideEffects": "Some"}, "webhooks[0].sideEffects"),
        ({"admissionReviewVersions": ["v1beta1"]}, "webhooks[0].admissionReviewVersions"),
        ({"timeoutSeconds": 31}, "webhooks[0].timeoutSeconds"),
        ({"failurePolicy": "Maybe"}, "webhooks[0].failurePolicy"),
        ({"matchConditions": [{"name": "a", "expression": "true"}]}, "webhooks[0].matchConditions"),
        ({"rules": [{**RULE, "resources": []}]}, "webhooks[0].rules[0].resources"),
    ],
)
def test_a_configuration_is_judged(call, wrong, field):
    target = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    status, said = call("POST", target, configuration({**webhook(), **wrong}))
    assert (status, said["details"]["causes"][0]["field"]) == (422, field)
