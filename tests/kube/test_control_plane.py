"""The control plane at a real API server, with the roles of the manifests and nothing more."""

from contextlib import asynccontextmanager

import pytest
import structlog
import trio

from ambient.api.spiffe import Identity
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.identity.core.csr import new_key_and_csr
from ambient.kube.core.errors import KubeError
from ambient.kube.core.resources import (
    AUTHORIZATION_POLICIES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    GATEWAYS,
    PEER_AUTHENTICATIONS,
    PODS,
    SECRETS,
    SERVICES,
)
from ambient.xds.io.session import NodeInfo
from istiod_lite import app
from istiod_lite.io.webhook import CONFIGURATIONS
from istiod_lite.settings import Settings
from tests.kube.servers import add_node, apply, documents, run_pod
from tests.unit.istiod_lite.test_app import ca, subscribed

DEADLINE_S = 30
# httpx leaves a socket to the garbage collector when a TLS handshake is cancelled.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SETTINGS = Settings(
    bind_address="127.0.0.1",
    http_port=0,
    monitoring_port=0,
    xds_port=0,
    xds_plaintext_port=0,
    https_port=0,
    pilot_debounce_after_s=0.02,
    istiod_custom_host=("localhost",),
)
ZTUNNEL = NodeInfo(kind="ztunnel", ip="10.0.0.1", name="zt-1", namespace="istio-system")
VALIDATOR = "istio-validator-istio-system"


async def until(check, *arguments):
    """Poll: the watches of these servers belong to the program under test."""
    with trio.fail_after(DEADLINE_S):
        while not (value := await check(*arguments)):
            await trio.sleep(0.05)
    return value


async def found(kube, res, name, namespace=None):
    try:
        return await kube.get(res, name, namespace)
    except KubeError:
        return None


@asynccontextmanager
async def control_plane(cluster, tmp_path, monkeypatch, *, restarts=False):
    """istiod with its own account; fails where the API server ever said 403 to it."""
    token = await cluster.token(cluster.kube, "istio-system", "istiod")
    monkeypatch.setenv("KUBECONFIG", cluster.kubeconfig("istiod", token))
    stopping = trio.Event()
    with structlog.testing.capture_logs() as logs, trio.fail_after(2 * DEADLINE_S):
        async with trio.open_nursery() as nursery:
            plane = await nursery.start(app.run, SETTINGS, stopping)
            roots = await until(found, cluster.kube, CONFIG_MAPS, "istio-ca-root-cert", "shop")
            (tmp_path / "root.pem").write_text(roots["data"]["root-cert.pem"])
            plane.logs = logs
            yield plane
            stopping.set()
    if restarts:
        return  # an API server that starts refuses everything until it has read the roles
    forbidden = [one for one in logs if "forbidden" in str(one.get("error", "")).lower()]
    assert forbidden == []


async def standing(cluster):
    """Two nodes, a tunnel and an application; the tunnel's and the application's tokens."""
    kube = cluster.kube
    for name in ("n1", "n2"):
        await add_node(kube, name)
    tunnel = await run_pod(kube, "zt-1", "istio-system", "10.0.0.1", account="ztunnel", node="n1")
    web = await run_pod(
        kube, "web", "shop", "10.1.0.1", account="web", node="n1", labels={"app": "web"}
    )
    await run_pod(kube, "api", "shop", "10.2.0.1", account="api", node="n2")
    spec = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}
    await apply(kube, SERVICES, {"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
    return (
        await cluster.token(kube, "istio-system", "ztunnel", audience="istio-ca", pod=tunnel),
        await cluster.token(kube, "shop", "web", audience="istio-ca", pod=web),
    )


@pytest.fixture
async def tokens(cluster):
    made = await standing(cluster)
    yield made
    for namespace in ("shop", "istio-system"):
        for pod in await cluster.kube.list(PODS, namespace):
            path = PODS.path(namespace, pod["metadata"]["name"])
            await cluster.kube.request("DELETE", path, {"gracePeriodSeconds": 0})
        for res in (AUTHORIZATION_POLICIES, GATEWAYS):
            for one in await cluster.kube.list(res, namespace):
                await cluster.kube.delete(res, one["metadata"]["name"], namespace)


def key(token, tmp_path, name):
    (tmp_path / f"token-{name}").write_text(token)
    return name


async def test_a_mesh_from_objects_to_certificates(cluster, tokens, tmp_path, monkeypatch):
    tunnel, web = tokens
    kube = cluster.kube
    async with control_plane(cluster, tmp_path, monkeypatch) as plane:
        types = [ADDRESS_TYPE, AUTHORIZATION_TYPE]
        async with subscribed(plane, tmp_path, tunnel, ZTUNNEL, types) as (held, changed):
            assert "Kubernetes//Pod/shop/web" in held
            assert "shop/web.shop.svc.cluster.local" in held
            # What the node agent does, with its own account.
            agent = await cluster.token(kube, "istio-system", "istio-cni")
            enrolled = {"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}}
            await as_account(cluster, agent, "cni", enrolled)
            while held["Kubernetes//Pod/shop/web"].tunnel_protocol.name != "HBONE":
                await changed.receive()
            policy = {"metadata": {"name": "deny", "namespace": "shop"},
                      "spec": {"action": "DENY", "rules": [{}]}}  # fmt: skip
            await apply(kube, AUTHORIZATION_POLICIES, policy)
            while "shop/deny" not in held:
                await changed.receive()
            identity = Identity("cluster.local", "shop", "web")
            _, csr = new_key_and_csr(identity)
            for token, impersonate in ((web, False), (tunnel, True)):
                client = ca(plane, tmp_path, token)
                chain = await client.sign(identity, csr, impersonate=impersonate, ttl_s=3600)
                client.close()
                assert len(chain) == 2
            gateway = {
                "metadata": {"name": "wp", "namespace": "shop"},
                "spec": {
                    "gatewayClassName": "istio-waypoint",
                    "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
                },
            }
            await apply(kube, GATEWAYS, gateway)
            made = await until(found, kube, DEPLOYMENTS, "wp", "shop")
            assert made["metadata"]["ownerReferences"][0]["kind"] == "Gateway"
            service = await until(found, kube, SERVICES, "wp", "shop")
            assert service["spec"]["clusterIP"].startswith("10.96.")


async def as_account(cluster, token, name, patch):
    from ambient.kube.io.client import KubeClient

    async with KubeClient.connect(cluster.kubeconfig(name, token)) as kube:
        await kube.patch(PODS, "web", patch, namespace="shop", subresource="status")


async def test_the_root_is_made_once_and_kept(cluster, tokens, tmp_path, monkeypatch):
    async with control_plane(cluster, tmp_path, monkeypatch):
        first = await cluster.kube.get(SECRETS, "istio-ca-secret", "istio-system")
    async with control_plane(cluster, tmp_path, monkeypatch):
        assert await cluster.kube.get(SECRETS, "istio-ca-secret", "istio-system") == first


async def test_the_webhook_becomes_binding_and_refuses_with_the_remedy(
    cluster, tmp_path, monkeypatch
):
    kube = cluster.kube
    async with control_plane(cluster, tmp_path, monkeypatch) as plane:
        (document,) = documents("manifests/base/webhook.yaml")
        # Outside a cluster there is no Service: the API server calls the port itself.
        url = f"https://localhost:{plane.ports['https_port']}/validate"
        document["webhooks"][0]["clientConfig"] = {"url": url}
        await apply(kube, CONFIGURATIONS, document)

        async def binding():
            one = await kube.get(CONFIGURATIONS, VALIDATOR)
            return one["webhooks"][0]["failurePolicy"] == "Fail"

        await until(binding)
        wrong = {"metadata": {"name": "x", "namespace": "shop"},
                 "spec": {"portLevelMtls": {"8080": {"mode": "STRICT"}}}}  # fmt: skip
        with pytest.raises(KubeError, match=r"spec\.portLevelMtls: needs a selector"):
            await apply(kube, PEER_AUTHENTICATIONS, wrong)
        right = {**wrong, "spec": {"mtls": {"mode": "STRICT"}}}
        await apply(kube, PEER_AUTHENTICATIONS, right)
    # Nobody judges any more: what nobody has judged does not get in.
    with pytest.raises(KubeError, match=r"failed calling webhook"):
        await apply(kube, PEER_AUTHENTICATIONS, {**right, "spec": {"mtls": {"mode": "DISABLE"}}})
    await kube.delete(CONFIGURATIONS, VALIDATOR)
    await kube.delete(PEER_AUTHENTICATIONS, "x", "shop")


@pytest.mark.kube
async def test_killing_the_api_server_loses_no_event(real_server, tmp_path, monkeypatch):
    real_server.folder = tmp_path
    async with real_server.admin() as kube:
        real_server.kube = kube
        await real_server.prepare(kube)
        tunnel, _ = await standing(real_server)
        async with control_plane(real_server, tmp_path, monkeypatch, restarts=True) as plane:
            async with subscribed(plane, tmp_path, tunnel, ZTUNNEL, [ADDRESS_TYPE]) as (held, news):
                real_server.kill()
                with trio.fail_after(DEADLINE_S):
                    while not plane.stale_s():
                        await trio.sleep(0.05)
                await trio.to_thread.run_sync(real_server.start_apiserver)
                await run_pod(kube, "late", "shop", "10.1.0.9", account="web", node="n1")
                while "Kubernetes//Pod/shop/late" not in held:
                    await news.receive()
                with trio.fail_after(DEADLINE_S):
                    while plane.stale_s():
                        await trio.sleep(0.05)
        for name, namespace in (("late", "shop"), ("web", "shop"), ("api", "shop"),
                                ("zt-1", "istio-system")):  # fmt: skip
            await kube.request("DELETE", PODS.path(namespace, name), {"gracePeriodSeconds": 0})
