"""The control plane with another cluster: its Secret comes, changes and goes; pain 36."""

import base64
import json
from pathlib import Path

import msgspec
import pytest
import trio

from ambient.api.errors import SettingsError
from ambient.api.type_urls import ADDRESS_TYPE
from ambient.kube.io.credentials import credentials_in
from tests.fakes.kube_api import FakeKubeApi
from tests.unit.istiod_lite.objects import gateway, namespace, pod, service
from tests.unit.istiod_lite.test_app import (
    NAMESPACES,
    PODS,
    SERVICES,
    SETTINGS,
    ZTUNNEL,
    control_plane,
    standing_mesh,
    subscribed,
)

SECRETS = "/api/v1/secrets"
GATEWAYS = "/apis/gateway.networking.k8s.io/v1/gateways"
WEB = "shop/web.shop.svc.cluster.local"
SPLIT = f"far/SplitHorizonWorkload/istio-system/east-west/198.51.100.1/{WEB}"
GLOBAL = {"istio.io/global": "true"}


def far_cluster():
    api = FakeKubeApi()
    root = namespace("istio-system")
    root["metadata"]["labels"] = {"topology.istio.io/network": "far"}
    api.put(NAMESPACES, root)
    api.put(NAMESPACES, namespace("shop"))
    way = gateway("east-west", "istio-system", ("IPAddress", "198.51.100.1"))
    way["spec"]["gatewayClassName"] = "istio-east-west"
    api.put(GATEWAYS, way)
    api.put(SERVICES, service("web", "shop", "10.97.0.1", selector={"app": "web"}, labels=GLOBAL))
    api.put(PODS, pod("a", "shop", "10.9.0.1", account="far-web", labels={"app": "web"}))
    return api


def secret(api, folder, name="two"):
    folder.mkdir(exist_ok=True)
    text = Path(api.kubeconfig(folder)).read_text()
    return remote_secret({name: text})


def remote_secret(kubeconfigs):
    labels = {"istio/multiCluster": "true"}
    data = {name: base64.b64encode(text.encode()).decode() for name, text in kubeconfigs.items()}
    metadata = {"name": "istio-remote-secret-two", "namespace": "istio-system", "labels": labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def near_cluster():
    api = standing_mesh()
    api.put(SERVICES, service("web", "shop", "10.96.0.10", selector={"app": "web"}, labels=GLOBAL))
    return api


async def test_endpoints_of_another_network_come_and_go_with_its_secret(tmp_path, monkeypatch):
    near, far = near_cluster(), far_cluster()
    async with far.serving(), control_plane(near, tmp_path, monkeypatch) as plane:
        async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, changed):
            assert SPLIT not in held
            near.put(SECRETS, secret(far, tmp_path / "two"))
            while SPLIT not in held:
                await changed.receive()
            assert held[SPLIT].capacity == 1
            assert held[WEB].subject_alt_names == ("spiffe://cluster.local/ns/shop/sa/far-web",)
            far.put(PODS, pod("b", "shop", "10.9.0.2", labels={"app": "web"}))
            while held[SPLIT].capacity != 2:
                await changed.receive()
            pages = plane._pages
            page = msgspec.json.decode(await pages.page("clusterz"))
            assert [(one["id"], one["syncStatus"]) for one in page] == [
                ("Kubernetes", "synced"), ("two", "synced")
            ]  # fmt: skip
            assert msgspec.json.decode(await pages.page("networkz"))[0]["network"] == "far"
            near.remove(SECRETS, "istio-system", "istio-remote-secret-two")
            while SPLIT in held:
                await changed.receive()
            assert not held[WEB].subject_alt_names
            assert len(msgspec.json.decode(await pages.page("clusterz"))) == 1


async def test_pain_36_nobody_is_served_before_every_cluster_is_known(tmp_path, monkeypatch):
    near, far = near_cluster(), far_cluster()
    async with far.serving():
        near.put(SECRETS, secret(far, tmp_path / "two"))
        for number in range(20):
            far.put(PODS, pod(f"p{number}", "shop", f"10.9.1.{number}", labels={"app": "web"}))
        async with control_plane(near, tmp_path, monkeypatch) as plane:
            async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, _):
                # The very first picture is whole.
                assert held[SPLIT].capacity == 21


async def test_a_cluster_that_does_not_answer_delays_the_start_and_is_named(tmp_path, monkeypatch):
    near, far = near_cluster(), far_cluster()
    async with far.serving():
        wanted = secret(far, tmp_path / "two")
    near.put(SECRETS, wanted)  # nobody listens there any more
    settings = msgspec.structs.replace(SETTINGS, pilot_remote_cluster_timeout_s=0.2)
    async with control_plane(near, tmp_path, monkeypatch, settings) as plane:
        page = msgspec.json.decode(await plane._pages.page("clusterz"))
        assert page[1]["syncStatus"] == "timeout"
        assert plane.metrics.cluster_timeouts._value.get() == 1
        async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, changed):
            assert SPLIT not in held
            async with far.serving():  # on the same port as before
                while SPLIT not in held:
                    await changed.receive()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"users": [{"name": "u", "user": {"exec": {"command": "sh"}}}]}, "user field exec"),
        ({"users": [{"name": "u", "user": {"tokenFile": "/etc/x"}}]}, "user field tokenFile"),
        ({"users": [{"name": "u", "user": {"client-key": "/x"}}]}, "user field client-key"),
        (
            {"clusters": [{"name": "c", "cluster": {"server": "https://x",
                                                    "certificate-authority": "/x"}}]},
            "cluster field certificate-authority",
        ),
        ({"users": None}, "cannot use the kubeconfig"),
        ({"contexts": []}, "cannot use the kubeconfig"),
    ],
)  # fmt: skip
def test_a_kubeconfig_runs_nothing_and_reads_nothing_here(tmp_path, change, said):
    good = json.loads(Path(FakeKubeApi().kubeconfig(tmp_path)).read_text())
    assert credentials_in(json.dumps(good), "Secret x").server == "http://127.0.0.1:0"
    with pytest.raises(SettingsError, match=said):
        credentials_in(json.dumps({**good, **change}), "Secret x")


@pytest.mark.parametrize("text", ["", "no: [yaml", "3", "\x00"])
def test_rubbish_is_no_kubeconfig(text):
    with pytest.raises(SettingsError, match="Secret x") as refused:
        credentials_in(text, "Secret x")
    assert "yaml" not in str(refused.value)  # what it says may be a token


async def test_a_refused_cluster_is_named_and_stops_nobody(tmp_path, monkeypatch):
    near = near_cluster()
    near.put(SECRETS, remote_secret({"two": "rubbish", "Kubernetes": "ours"}))
    async with control_plane(near, tmp_path, monkeypatch) as plane:
        with trio.fail_after(10):
            while plane._remotes.page()[0]["syncStatus"] != "refused":
                await trio.sleep(0.01)
        assert [one["id"] for one in plane._remotes.page()] == ["two"]
        async with subscribed(plane, tmp_path, "zt", ZTUNNEL, [ADDRESS_TYPE]) as (held, _):
            assert WEB in held
