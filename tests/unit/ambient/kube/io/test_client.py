"""Calls, refusals, and following a collection through lost connections and lost history."""

import pytest
import trio

from ambient.api.errors import SettingsError, UnavailableError
from ambient.kube.core.errors import Conflict, NotFound
from ambient.kube.core.resources import CONFIG_MAPS, PODS
from ambient.kube.io.client import KubeClient
from ambient.kube.io.credentials import load_credentials
from ambient.kube.io.watch import follow
from tests.fakes.kube_api import FakeKubeApi

PODS_PATH = "/api/v1/pods"


def pod(name, **labels):
    return {"metadata": {"namespace": "shop", "name": name, "labels": labels}}


@pytest.fixture
async def api():
    async with FakeKubeApi().serving() as api:
        yield api


@pytest.fixture
async def kube(api, tmp_path):
    async with KubeClient.connect(api.kubeconfig(tmp_path)) as kube:
        yield kube


async def test_create_get_patch_delete(kube):
    made = await kube.create(CONFIG_MAPS, {"metadata": {"namespace": "shop", "name": "c"}})
    assert made["kind"] == "ConfigMap"
    await kube.patch(CONFIG_MAPS, "c", {"data": {"k": "v"}}, namespace="shop")
    got = await kube.get(CONFIG_MAPS, "c", "shop")
    assert got["data"] == {"k": "v"}
    await kube.patch(
        CONFIG_MAPS, "d", {"data": {"x": "y"}}, namespace="shop", kind="apply", force=True
    )
    assert {o["metadata"]["name"] for o in await kube.list(CONFIG_MAPS)} == {"c", "d"}
    await kube.delete(CONFIG_MAPS, "c", "shop")
    with pytest.raises(NotFound):
        await kube.get(CONFIG_MAPS, "c", "shop")


async def test_replacing_an_old_version_is_a_conflict(kube):
    made = await kube.create(CONFIG_MAPS, {"metadata": {"namespace": "shop", "name": "c"}})
    await kube.replace(CONFIG_MAPS, {**made, "data": {"a": "1"}})
    with pytest.raises(Conflict):
        await kube.replace(CONFIG_MAPS, {**made, "data": {"a": "2"}})


async def test_a_server_that_is_away_is_one_clear_error(api, kube):
    api.away = True
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        await kube.get(PODS, "a", "shop")
    assert "kubeconfig" in caught.value.hint


async def test_follow_survives_half_lines_cuts_and_lost_history(api, kube):
    api.put(PODS_PATH, pod("a"))
    api.watch_chunks = lambda line: [line[:7], line[7:-3], line[-3:]]
    events = follow(kube, PODS)

    async def following():
        event = await anext(events)
        return event.kind.value, event.object.get("metadata", {}).get("name")

    with trio.fail_after(30):
        assert await following() == ("ADDED", "a")
        assert await following() == ("SYNCED", None)
        api.put(PODS_PATH, pod("b"))
        assert await following() == ("ADDED", "b")
        api.cut()
        api.put(PODS_PATH, pod("b", version="v2"))
        assert await following() == ("MODIFIED", "b")
        api.remove(PODS_PATH, "shop", "a")
        api.put(PODS_PATH, pod("c"))
        api.forget_history()
        assert {await following(), await following()} == {("DELETED", "a"), ("ADDED", "c")}


async def test_a_reader_may_leave_in_the_middle(api, kube):
    for number in range(200):
        api.put(PODS_PATH, pod(f"p{number}"))
    events = follow(kube, PODS)
    await anext(events)
    for number in range(200):
        api.put(PODS_PATH, pod(f"q{number}"))
    await events.aclose()


async def test_token_is_read_again_from_its_file(tmp_path):
    for name, text in (("token", "old"), ("ca.crt", "-"), ("namespace", "istio-system")):
        (tmp_path / name).write_text(text)
    env = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    credentials = load_credentials(env=env, account_directory=tmp_path)
    assert (credentials.server, credentials.namespace) == ("https://10.96.0.1:443", "istio-system")
    assert credentials.authorization() == "Bearer old"


@pytest.mark.parametrize("text", ["", "clusters: [", "{}", "- 1"])
async def test_a_bad_kubeconfig_is_named(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(SettingsError, match=str(path)):
        load_credentials(str(path))


async def test_a_missing_kubeconfig_is_named(tmp_path):
    with pytest.raises(SettingsError, match="nowhere"):
        load_credentials(str(tmp_path / "nowhere"))


async def test_an_error_in_the_block_is_not_wrapped(api, tmp_path):
    async def fail():
        async with KubeClient.connect(api.kubeconfig(tmp_path)) as kube:
            follow(kube, PODS)
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await fail()
