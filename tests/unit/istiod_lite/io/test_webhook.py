"""The webhook over TLS, and our part of its configuration."""

import base64
import ssl
from datetime import UTC, datetime

import httpx
import msgspec
import trio

from ambient.kube.io.client import KubeClient
from istiod_lite.core.certificates import Authority
from istiod_lite.io.issuer import Issuer
from istiod_lite.io.metrics import Metrics
from istiod_lite.io.serving import ServingCertificate
from istiod_lite.io.webhook import Webhook, WebhookConfiguration, configured
from tests.fakes.kube_api import FakeKubeApi
from tests.unit.istiod_lite.core.authorities import Ca

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
PEER_AUTHENTICATIONS = "/apis/security.istio.io/v1/peerauthentications"
NAME = "istio-validator-istio-system"


def issuer():
    return Issuer(Authority(Ca(now=datetime.now(UTC)).material()), Metrics())


def review(spec, *, operation="CREATE", kind="PeerAuthentication"):
    obj = {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "x"},
           "spec": spec}  # fmt: skip
    request = {
        "uid": "u1",
        "kind": {"group": "security.istio.io", "version": "v1", "kind": kind},
        "resource": {
            "group": "security.istio.io",
            "version": "v1",
            "resource": "peerauthentications",
        },
        "operation": operation,
        "name": "x",
        "namespace": "shop",
        "object": obj,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


async def test_reviews_over_tls_and_a_certificate_that_follows_the_authority():
    one = issuer()
    metrics = Metrics()
    webhook = Webhook(ServingCertificate(one, ["localhost"]), metrics)
    one.changed.append(webhook.refresh)
    async with trio.open_nursery() as nursery:
        port = await nursery.start(webhook.run, "127.0.0.1", 0)

        async def post(body):
            context = ssl.create_default_context(cadata=one.roots_pem)
            async with httpx.AsyncClient(verify=context, trust_env=False) as http:
                return await http.post(f"https://localhost:{port}/validate", content=body)

        wrong = {"portLevelMtls": {"80": {"mode": "STRICT"}}}
        for spec, operation, allowed in (
            ({"mtls": {"mode": "STRICT"}}, "CREATE", True),
            (wrong, "CREATE", False),
            (wrong, "UPDATE", False),
            (wrong, "DELETE", True),
        ):
            answer = await post(msgspec.json.encode(review(spec, operation=operation)))
            response = msgspec.json.decode(answer.content)["response"]
            assert (response["uid"], response["allowed"]) == ("u1", allowed)
            if not allowed:
                assert "spec.portLevelMtls: needs a selector" in response["status"]["message"]
        for rubbish in (b"", b"[]", b'{"request": 7}', b"\xff" * 100):
            assert (await post(rubbish)).status_code == 400
        one.adopt(Authority(Ca(now=datetime.now(UTC)).material()))
        assert (await post(msgspec.json.encode(review({})))).status_code == 200
        nursery.cancel_scope.cancel()
    labels = {
        "group": "security.istio.io",
        "version": "v1",
        "resource": "peerauthentications",
    }
    value = metrics.registry.get_sample_value
    assert value("galley_validation_passed", labels) == 3
    refused = {**labels, "reason": "invalid_resource"}
    assert value("galley_validation_failed", refused) == 2
    assert value("galley_validation_http_error", {"status": "400"}) == 4


CONFIGURATION = {
    "metadata": {"name": NAME},
    "webhooks": [
        {
            "name": "rev.validation.istio.io",
            "clientConfig": {"service": {"name": "istiod"}},
            "failurePolicy": "Ignore",
        },
        {"name": "somebody.else", "clientConfig": {"url": "https://x"}},
    ],
}


def test_webhooks_of_others_stay_as_they_are():
    made = configured(CONFIGURATION, "roots", binding=True)
    ours, other = made["webhooks"]
    assert other == CONFIGURATION["webhooks"][1]
    assert base64.b64decode(ours["clientConfig"]["caBundle"]) == b"roots"
    assert ours["failurePolicy"] == "Fail"
    assert configured(made, "roots", binding=True) == made


class AdmittingApi(FakeKubeApi):
    """Calls the webhook only once it has been let through to it."""

    reached = False

    def _answer(self, method, path, query, body):
        if method == "POST" and path.endswith("/peerauthentications"):
            if not self.reached:
                return 201, body
            text = "denied: internal.istio.io/webhook-always-reject asks for this"
            return 422, {"message": text, "reason": "Invalid"}
        return super()._answer(method, path, query, body)


async def test_it_binds_only_once_the_api_server_is_seen_to_reach_us(tmp_path, nursery):
    one = issuer()
    async with (
        AdmittingApi().serving() as api,
        KubeClient.connect(api.kubeconfig(tmp_path)) as kube,
    ):
        configuration = WebhookConfiguration(kube, one, Metrics(), "istio-system", "default")
        one.changed.append(configuration.look)
        nursery.start_soon(configuration.run)
        api.put(CONFIGURATIONS, CONFIGURATION)

        async def until(check):
            with trio.fail_after(30):
                while not check(api.get(CONFIGURATIONS, "", NAME)["webhooks"][0]):
                    await api.changed()

        def bundle():
            return base64.b64encode(one.roots_pem.encode()).decode()

        await until(lambda hook: hook["clientConfig"].get("caBundle") == bundle())
        assert api.get(CONFIGURATIONS, "", NAME)["webhooks"][0]["failurePolicy"] == "Ignore"
        api.reached = True
        one.adopt(Authority(Ca(now=datetime.now(UTC)).material()))
        await until(lambda hook: hook["failurePolicy"] == "Fail")
        await until(lambda hook: hook["clientConfig"]["caBundle"] == bundle())
        assert api.objects.get(PEER_AUTHENTICATIONS) is None
        nursery.cancel_scope.cancel()
