"""The whole control plane over TLS: objects in at a fake API server, xDS and certificates out."""

import base64
import json
import queue
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import grpc
import httpx
import msgspec
import pytest
import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb

from ambient.api.spiffe import Identity
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE, CONFIG_TYPE, SECRET_TYPE
from ambient.cli.run import leaves
from ambient.identity.core.csr import new_key_and_csr
from ambient.identity.io.ca_client import CaClient, CaError
from ambient.identity.io.grpc_server import GrpcServer
from ambient.xds.io.session import NodeInfo, XdsSession
from istiod_lite import app
from istiod_lite.core import root_secret, rotation
from istiod_lite.core.certificates import key_pem, self_signed
from istiod_lite.settings import Settings
from tests.fakes.kube_api import FakeKubeApi
from tests.unit.istiod_lite.objects import gateway, meta, namespace, node, pod, policy, service

PODS, SERVICES = "/api/v1/pods", "/api/v1/services"
NAMESPACES, NODES, SECRETS = "/api/v1/namespaces", "/api/v1/nodes", "/api/v1/secrets"
CONFIG_MAPS = "/api/v1/configmaps"
GATEWAYS = "/apis/gateway.networking.k8s.io/v1/gateways"
POLICIES = "/apis/security.istio.io/v1/authorizationpolicies"
RULES = "/apis/networking.istio.io/v1/destinationrules"
DEPLOYMENTS = "/apis/apps/v1/deployments"

SETTINGS = Settings(
    bind_address="127.0.0.1",
    http_port=0,
    monitoring_port=0,
    xds_port=0,
    xds_plaintext_port=0,
    https_port=0,
    pilot_debounce_after_s=0.02,
)

FOREIGN_ROOT = self_signed(
    ec.generate_private_key(ec.SECP256R1()), "elsewhere", now=datetime.now(UTC), serial=1
)


def review(namespace, account, pod_name="", pod_uid=""):
    extra = {
        "authentication.kubernetes.io/pod-name": [pod_name],
        "authentication.kubernetes.io/pod-uid": [pod_uid],
    }
    user = {
        "username": f"system:serviceaccount:{namespace}:{account}",
        "groups": ["system:serviceaccounts"],
        "extra": extra if pod_name else {},
    }
    return {"authenticated": True, "user": user, "audiences": ["istio-ca"]}


def standing_mesh():
    """Two nodes, a tunnel on the first, one pod on each."""
    api = FakeKubeApi()
    for name in ("istio-system", "shop"):
        api.put(NAMESPACES, namespace(name))
    for name in ("n1", "n2"):
        api.put(NODES, node(name))
    api.put(
        PODS, pod("zt-1", "istio-system", "10.0.0.1", account="ztunnel", node="n1", uid="zt-uid")
    )
    api.put(PODS, pod("web", "shop", "10.1.0.1", account="web", node="n1", labels={"app": "web"}))
    api.put(PODS, pod("api", "shop", "10.2.0.1", account="api", node="n2"))
    api.put(SERVICES, service("web", "shop", "10.96.0.10", selector={"app": "web"}))
    api.tokens["zt"] = review("istio-system", "ztunnel", "zt-1", "zt-uid")
    api.tokens["unbound"] = review("istio-system", "ztunnel")
    api.tokens["other-pod"] = review("istio-system", "ztunnel", "zt-1", "another-uid")
    api.tokens["web"] = review("shop", "web", "web", "uid-web")
    return api


@asynccontextmanager
async def control_plane(api, tmp_path, monkeypatch, settings=SETTINGS):
    async with api.serving():
        monkeypatch.setenv("KUBECONFIG", api.kubeconfig(tmp_path))
        stopping = trio.Event()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                plane = await nursery.start(app.run, settings, stopping)
                root = await until(lambda: api.get(CONFIG_MAPS, "shop", "istio-ca-root-cert"), api)
                (tmp_path / "root.pem").write_text(root["data"]["root-cert.pem"])
                yield plane
                stopping.set()


async def until(found, api):
    """Wait for the API server's objects to be as wanted."""
    while not (value := found()):
        await api.changed()
    return value


def ca(plane, tmp_path, token):
    (tmp_path / f"token-{token[-20:]}").write_text(token)
    return CaClient(
        GrpcServer(
            address=f"127.0.0.1:{plane.ports['xds_port']}",
            root_ca_file=str(tmp_path / "root.pem"),
            token_file=str(tmp_path / f"token-{token[-20:]}"),
            alt_hostname="istiod.istio-system.svc",
        )
    )


@asynccontextmanager
async def subscribed(plane, tmp_path, token, info, types):
    """A client's view of the mesh: name to value; ``changed`` is pulsed at every update."""
    (tmp_path / f"token-{token[-20:]}").write_text(token)
    held = {}
    updates, changed = trio.open_memory_channel(100)

    def apply(update):
        held.update(update.changed)
        for name in update.removed:
            held.pop(name, None)
        updates.send_nowait(update)
        return ()

    session = XdsSession(
        GrpcServer(
            address=f"127.0.0.1:{plane.ports['xds_port']}",
            root_ca_file=str(tmp_path / "root.pem"),
            token_file=str(tmp_path / f"token-{token[-20:]}"),
            alt_hostname="istiod.istio-system.svc",
        ),
        info,
        types,
        apply,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.synced.wait()
        while True:
            try:
                changed.receive_nowait()
            except trio.WouldBlock:
                break
        yield held, changed
        nursery.cancel_scope.cancel()


ZTUNNEL = NodeInfo(kind="ztunnel", ip="10.0.0.1", name="zt-1", namespace="istio-system")


async def test_a_tunnel_syncs_and_hears_of_one_pod_that_changed(tmp_path, monkeypatch):
    api = standing_mesh()
    types = [ADDRESS_TYPE, AUTHORIZATION_TYPE]
    async with (
        control_plane(api, tmp_path, monkeypatch) as plane,
        subscribed(plane, tmp_path, "zt", ZTUNNEL, types) as (held, changed),
    ):
        assert set(held) == {
            "Kubernetes//Pod/istio-system/zt-1",
            "Kubernetes//Pod/shop/web",
            "Kubernetes//Pod/shop/api",
            "shop/web.shop.svc.cluster.local",
        }
        enrolled = pod("web", "shop", "10.1.0.1", account="web", node="n1", labels={"app": "web"})
        enrolled["metadata"]["annotations"] = {"ambient.istio.io/redirection": "enabled"}
        api.put(PODS, enrolled)
        update = await changed.receive()
        assert set(update.changed) == {"Kubernetes//Pod/shop/web"}
        assert held["Kubernetes//Pod/shop/web"].tunnel_protocol.name == "HBONE"
        api.put(POLICIES, policy("deny", "shop", {"action": "DENY", "rules": [{}]}))
        update = await changed.receive()
        assert (update.type_url, set(update.changed)) == (AUTHORIZATION_TYPE, {"shop/deny"})
        api.remove(PODS, "shop", "api")
        update = await changed.receive()
        assert update.removed == {"Kubernetes//Pod/shop/api"}


async def test_the_last_state_is_served_while_the_api_server_is_away(tmp_path, monkeypatch):
    api = standing_mesh()
    async with control_plane(api, tmp_path, monkeypatch) as plane:
        async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, _):
            before = dict(held)
        api.away = True
        api.cut()
        async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, _):
            assert held == before
        api.away = False


async def test_certificates_for_callers_and_for_pods_of_their_node(tmp_path, monkeypatch):
    api = standing_mesh()
    async with control_plane(api, tmp_path, monkeypatch) as plane:
        web, remote = (
            Identity("cluster.local", "shop", "web"),
            Identity("cluster.local", "shop", "api"),
        )
        _, csr = new_key_and_csr(web)

        async def uri(token, identity, impersonate):
            client = ca(plane, tmp_path, token)
            try:
                chain = await client.sign(identity, csr, impersonate=impersonate, ttl_s=3600)
            finally:
                client.close()
            leaf = x509.load_pem_x509_certificate(chain[0].encode())
            san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            return san.get_values_for_type(x509.UniformResourceIdentifier)

        assert await uri("web", web, False) == [str(web)]
        assert await uri("zt", web, True) == [str(web)]
        for token, identity in (
            ("web", remote),  # not trusted to ask for others
            ("zt", remote),  # the pod runs on the other node
            ("zt", Identity("elsewhere", "shop", "web")),  # foreign trust domain
            ("unbound", web),  # token of no pod
            ("other-pod", web),  # token of a pod that is gone
            ("nobody", web),  # token that is not valid
        ):
            with pytest.raises(CaError, match="UNAUTHENTICATED"):
                await uri(token, identity, True)


async def test_a_waypoint_is_deployed_programmed_and_told_its_config(tmp_path, monkeypatch):
    api = standing_mesh()
    api.put(GATEWAYS, gateway("wp", "shop"))
    async with control_plane(api, tmp_path, monkeypatch) as plane:
        made = await until(lambda: api.get(DEPLOYMENTS, "shop", "wp"), api)
        assert made["metadata"]["ownerReferences"][0]["name"] == "wp"
        address = {"clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"]}
        svc = await until(lambda: api.get(SERVICES, "shop", "wp"), api)
        api.put(SERVICES, {**svc, "spec": {**svc["spec"], **address}})
        labels = made["spec"]["template"]["metadata"]["labels"]
        api.put(PODS, pod("wp-0", "shop", "10.1.0.9", account="wp", node="n1", labels=labels))

        def programmed():
            status = api.get(GATEWAYS, "shop", "wp").get("status", {})
            return status.get("addresses")

        assert await until(programmed, api) == [
            {"type": "Hostname", "value": "wp.shop.svc.cluster.local"},
            {"type": "IPAddress", "value": "10.96.0.77"},
        ]
        labelled = service("web", "shop", "10.96.0.10", selector={"app": "web"})
        labelled["metadata"]["labels"] = {"istio.io/use-waypoint": "wp"}
        api.put(SERVICES, labelled)
        target = {"targetRefs": [{"kind": "Service", "name": "web", "group": ""}], "rules": [{}]}
        api.tokens["wp"] = review("shop", "wp", "wp-0", "uid-wp-0")
        info = NodeInfo(kind="waypoint", ip="10.1.0.9", name="wp-0", namespace="shop")
        types = [ADDRESS_TYPE, CONFIG_TYPE]
        async with subscribed(plane, tmp_path, "wp", info, types) as (held, changed):
            assert held["Kubernetes//Pod/shop/web"].labels == {"app": "web"}
            api.put(POLICIES, policy("l7", "shop", target))
            name = "AuthorizationPolicy/shop/l7"
            while name not in held:
                await changed.receive()
            assert held[name].object["spec"] == target
            unlabelled = service("web", "shop", "10.96.0.10", selector={"app": "web"})
            api.put(SERVICES, unlabelled)
            while name in held:
                await changed.receive()


async def test_a_secret_goes_to_pods_of_the_waypoint_that_needs_it_and_to_nobody_else(
    tmp_path, monkeypatch
):
    api = standing_mesh()
    address = {"type": "Hostname", "value": "wp.shop.svc.cluster.local"}
    api.put(GATEWAYS, {**gateway("wp", "shop"), "status": {"addresses": [address]}})
    labels = {"gateway.networking.k8s.io/gateway-name": "wp"}
    api.put(PODS, pod("wp-0", "shop", "10.1.0.9", account="wp", node="n1", labels=labels))
    tls = {"mode": "SIMPLE", "credentialName": "bank"}
    rule = {"host": "bank.example.com", "trafficPolicy": {"tls": tls}}
    api.put(RULES, {"metadata": meta("bank", "shop"), "spec": rule})
    api.tokens["wp"] = review("shop", "wp", "wp-0", "uid-wp-0")
    api.tokens["wp-unbound"] = review("shop", "wp")
    pem = FOREIGN_ROOT

    def claiming(name):
        told = {"GATEWAY_NAME": "wp"}
        return NodeInfo(kind="waypoint", ip="10.1.0.9", name=name, namespace="shop", metadata=told)

    async with control_plane(api, tmp_path, monkeypatch) as plane:
        async with subscribed(plane, tmp_path, "wp", claiming("wp-0"), [SECRET_TYPE]) as (
            held,
            changed,
        ):
            name = "kubernetes://bank-cacert"
            while name not in held:
                await changed.receive()
            assert held[name].empty  # it is known that there is none
            data = {"ca.crt": base64.b64encode(pem).decode()}
            api.put(SECRETS, {"metadata": meta("bank", "shop"), "data": data})
            while held[name].empty:
                await changed.receive()
            assert held[name].ca_pem == pem
            for token in ("web", "wp-unbound"):  # of the same namespace, and of the same account
                others = subscribed(plane, tmp_path, token, claiming("wp-0"), [SECRET_TYPE])
                async with others as (theirs, _):
                    assert theirs == {}
            api.remove(SECRETS, "shop", "bank")
            while not held[name].empty:
                await changed.receive()


async def test_roots_are_in_every_namespace_whatever_others_do(tmp_path, monkeypatch):
    api = standing_mesh()
    async with control_plane(api, tmp_path, monkeypatch):

        def right(name):
            found = api.get(CONFIG_MAPS, name, "istio-ca-root-cert")
            return found and found["data"].get("root-cert.pem", "").startswith("-----BEGIN")

        api.put(NAMESPACES, namespace("late"))
        await until(lambda: right("late"), api)
        edited = api.get(CONFIG_MAPS, "late", "istio-ca-root-cert")
        api.put(CONFIG_MAPS, {**edited, "data": {"root-cert.pem": "forged"}})
        await until(lambda: right("late"), api)
        api.remove(CONFIG_MAPS, "shop", "istio-ca-root-cert")
        await until(lambda: right("shop"), api)


async def test_a_second_start_keeps_the_root_and_leads_at_once(tmp_path, monkeypatch):
    api = standing_mesh()
    async with control_plane(api, tmp_path, monkeypatch):
        first = api.get(SECRETS, "istio-system", "istio-ca-secret")
    api.port = 0
    async with control_plane(api, tmp_path, monkeypatch):
        assert api.get(SECRETS, "istio-system", "istio-ca-secret") == first
        api.put(NAMESPACES, namespace("late"))
        await until(lambda: api.get(CONFIG_MAPS, "late", "istio-ca-root-cert"), api)


async def test_a_rotation_is_followed_by_everything_and_no_log_shows_a_key(tmp_path, monkeypatch):
    """Announce, switch, retire on a running control plane: whoever trusts the bundle of the moment
    reaches every port and verifies every chain."""
    api = standing_mesh()
    web = Identity("cluster.local", "shop", "web")
    _, csr = new_key_and_csr(web)
    with structlog.testing.capture_logs() as logs:
        async with control_plane(api, tmp_path, monkeypatch) as plane:

            def secret():
                return api.get(SECRETS, "istio-system", "istio-ca-secret")

            async def bundle_is_published():
                roots = base64.b64decode(secret()["data"]["root-cert.pem"]).decode()

                def published():
                    found = api.get(CONFIG_MAPS, "shop", "istio-ca-root-cert")
                    return found["data"]["root-cert.pem"] == roots

                await until(published, api)
                (tmp_path / "root.pem").write_text(roots)
                return roots

            async def served():
                client = ca(plane, tmp_path, "web")
                chain = await client.sign(web, csr, impersonate=False, ttl_s=60)
                client.close()
                leaf = x509.load_pem_x509_certificate(chain[0].encode())
                roots = x509.load_pem_x509_certificates(chain[-1].encode())
                signers = [root for root in roots if _signed(leaf, root)]
                assert len(signers) == 1
                async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, _):
                    assert held
                return signers[0]

            old = await served()
            state = root_secret.read(secret())
            now = datetime.now(UTC)
            new = ec.generate_private_key(ec.SECP256R1())
            root = self_signed(new, "cluster.local", now=now, serial=77)
            for change, count, signer_is_old in (
                (lambda one: rotation.announced(one, root, key_pem(new), now), 2, True),
                (lambda one: rotation.switched(one, now), 2, False),
                (rotation.retired, 1, False),
            ):
                state = change(state)
                api.put(SECRETS, root_secret.write(state, "istio-system", secret()))
                assert (await bundle_is_published()).count("BEGIN") == count
                # Two roots stay two roots when the signer changes: the bundle does not tell when.
                with trio.fail_after(30):
                    while (await served() == old) is not signer_is_old:
                        await trio.sleep(0.05)
        keys = [value for name, value in secret()["data"].items() if "key" in name and value]
    said = json.dumps(logs, default=repr)
    assert "PRIVATE KEY" not in said
    bodies = [base64.b64decode(one).decode().splitlines()[1] for one in keys]
    assert bodies
    for secret_text in (*bodies, key_pem(new).decode().splitlines()[1]):
        assert secret_text not in said
    assert "root.published" in said


def _signed(leaf, root):
    try:
        leaf.verify_directly_issued_by(root)
    except Exception:  # noqa: BLE001 - whatever it is, it is no signature
        return False
    return True


async def test_certificate_requests_are_refused_with_a_reason_and_counted(tmp_path, monkeypatch):
    api = standing_mesh()
    async with control_plane(api, tmp_path, monkeypatch) as plane:
        web, admin = (Identity("cluster.local", "shop", one) for one in ("web", "admin"))
        client = ca(plane, tmp_path, "web")
        _, foreign = new_key_and_csr(admin)
        _, own = new_key_and_csr(web)
        with pytest.raises(CaError, match=r"may only have spiffe://cluster\.local/ns/shop/sa/web"):
            await client.sign(web, foreign, impersonate=False, ttl_s=60)
        with pytest.raises(CaError, match="MAX_WORKLOAD_CERT_TTL"):
            await client.sign(web, own, impersonate=False, ttl_s=91 * 86400)
        with pytest.raises(CaError, match="this is no certificate request"):
            await client.sign(web, b"nonsense", impersonate=False, ttl_s=60)
        # pain 33: the text that reaches the tunnel's log names both accounts.
        with pytest.raises(CaError, match=r"shop/web may not .*istio-system/ztunnel"):
            await client.sign(web, own, impersonate=True, ttl_s=60)
        client.close()
        value = plane.metrics.registry.get_sample_value
        faults = {"foreign_name": 1.0, "unreadable": 1.0}
        for fault, count in faults.items():
            assert value("ambient_istiod_csr_faults_total", {"fault": fault}) == count
        assert value("citadel_server_csr_sign_err_count", {"error": "TTL_ERROR"}) == 1
        assert value("citadel_server_authentication_failure_count") == 1
        assert value("citadel_server_csr_count") == 4
        assert value("citadel_server_root_cert_expiry_seconds") > 3600 * 24 * 3600
        assert value("citadel_server_cert_chain_expiry_timestamp") > 2e9


async def test_two_revisions_side_by_side(tmp_path, monkeypatch):
    api = standing_mesh()
    canary = msgspec.structs.replace(SETTINGS, revision="canary")
    deny = {"action": "DENY", "rules": [{}]}
    for name, labels in (("all", {}), ("new", {"istio.io/rev": "canary"}),
                         ("tagged", {"istio.io/rev": "prod"}),
                         ("old", {"istio.io/rev": "default"})):  # fmt: skip
        made = policy(name, "shop", deny)
        made["metadata"]["labels"] = labels
        api.put(POLICIES, made)
    async with control_plane(api, tmp_path, monkeypatch, canary) as plane:
        types = [AUTHORIZATION_TYPE]
        async with subscribed(plane, tmp_path, "zt", ZTUNNEL, types) as (held, changed):
            assert set(held) == {"shop/all", "shop/new"}
            tag = service("istiod-prod", "istio-system", "10.96.0.99", selector={})
            tag["metadata"]["labels"] = {"istio.io/tag": "prod", "istio.io/rev": "canary"}
            api.put(SERVICES, tag)
            while "shop/tagged" not in held:
                await changed.receive()
            api.remove(SERVICES, "istio-system", "istiod-prod")
            while "shop/tagged" in held:
                await changed.receive()
        assert api.get("/apis/coordination.k8s.io/v1/leases", "istio-system",
                       "istiod-lite-writer-canary")  # fmt: skip


async def test_a_stale_cache_is_served_and_said(tmp_path, monkeypatch):
    api = standing_mesh()
    async with control_plane(api, tmp_path, monkeypatch) as plane:
        base = f"http://127.0.0.1:{plane.ports['http_port']}"
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{base}/ready")).text == "ready\n"
            async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]):
                pass
            api.away = True
            api.cut()
            while not plane.stale_s():
                await trio.sleep(0.01)
            answer = await http.get(f"{base}/ready")
            assert (answer.status_code, "API server is away" in answer.text) == (200, True)
            async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, news):
                assert "Kubernetes//Pod/shop/web" in held
                api.put(PODS, pod("late", "shop", "10.1.0.9", account="web", node="n1"))
                api.away = False
                while "Kubernetes//Pod/shop/late" not in held:
                    await news.receive()
            while plane.stale_s():
                await trio.sleep(0.01)


async def test_who_may_not_subscribe(tmp_path, monkeypatch):
    api = standing_mesh()
    async with control_plane(api, tmp_path, monkeypatch) as plane:
        secure, plain = plane.ports["xds_port"], plane.ports["xds_plaintext_port"]
        root = (tmp_path / "root.pem").read_bytes()
        good = {"id": "ztunnel~10.0.0.1~zt-1.istio-system~istio-system.svc.cluster.local"}
        foreign = {"id": "ztunnel~10.0.0.1~x.shop~shop.svc.cluster.local"}
        for port, trusted, token, node_, code in (
            (secure, root, "zt", good, None),
            (secure, root, "nobody", good, "UNAUTHENTICATED"),
            (secure, root, None, good, "UNAUTHENTICATED"),
            (secure, root, "zt", foreign, "PERMISSION_DENIED"),
            (secure, root, "zt", {"id": "nonsense"}, "INVALID_ARGUMENT"),
            (secure, FOREIGN_ROOT, "zt", good, "UNAVAILABLE"),
            (plain, None, None, good, None),
        ):
            got = await trio.to_thread.run_sync(first_answer, port, trusted, token, node_)
            assert got == code


def first_answer(port, root, token, node_):
    """The status of a stream's first answer, None for a good one; no root means plain text."""
    options = (("grpc.ssl_target_name_override", "istiod.istio-system.svc"),)
    credentials = grpc.ssl_channel_credentials(root) if root else None
    target = f"127.0.0.1:{port}"
    channel = (
        grpc.secure_channel(target, credentials, options)
        if credentials
        else grpc.insecure_channel(target)
    )
    metadata = [("authorization", f"Bearer {token}")] if token else []
    requests = queue.SimpleQueue()
    requests.put(pb.DeltaDiscoveryRequest(node=node_, type_url=ADDRESS_TYPE))
    with channel:
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        call = stub.DeltaAggregatedResources(iter(requests.get, None), metadata=metadata)
        try:
            next(call)
        except grpc.RpcError as error:
            return error.code().name
        finally:
            requests.put(None)
            call.cancel()
    return None


async def test_readiness_debug_pages_and_metrics(tmp_path, monkeypatch):
    async with control_plane(standing_mesh(), tmp_path, monkeypatch) as plane:
        base = f"http://127.0.0.1:{plane.ports['http_port']}"
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{base}/ready")).status_code == 200
            index = msgspec.json.decode((await http.get(f"{base}/debug/index")).content)
            assert {one["name"] for one in index["workloads"]} == {"zt-1", "web", "api"}
            found = msgspec.json.decode((await http.get(f"{base}/debug/analysis")).content)
            assert all({"kind", "object", "text", "hint"} == set(one) for one in found)
            config = msgspec.json.decode((await http.get(f"{base}/debug/configz")).content)
            assert config["settings"]["trust_domain"] == "cluster.local"
            async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]):
                (row,) = msgspec.json.decode((await http.get(f"{base}/debug/syncz")).content)
                assert row["resources"][ADDRESS_TYPE]["status"] in ("SYNCED", "STALE")
            metrics = f"http://127.0.0.1:{plane.ports['monitoring_port']}/metrics"
            assert "pilot_services 1.0" in (await http.get(metrics)).text


async def test_a_port_that_is_taken_is_named(tmp_path, monkeypatch):
    api = standing_mesh()
    async with api.serving():
        monkeypatch.setenv("KUBECONFIG", api.kubeconfig(tmp_path))
        for name, hint in (("http_port", "HTTP_PORT"), ("xds_port", "XDS_PORT")):
            taken = msgspec.structs.replace(SETTINGS, **{name: api.port})
            with pytest.raises(ExceptionGroup) as caught:
                await app.run(taken, trio.Event())
            (error,) = leaves(caught.value)
            assert str(api.port) in str(error)
            assert hint in error.hint
