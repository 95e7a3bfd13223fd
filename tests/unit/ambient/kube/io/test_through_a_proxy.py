"""An API server that only a proxy reaches."""

from __future__ import annotations

import base64
import functools
import json
import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from ambient.api.errors import UnavailableError
from ambient.kube.core.resources import PODS
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.proxy import FakeProxy

SERVER = "api.example"


@pytest.fixture
def authority():
    return trustme.CA()


@asynccontextmanager
async def secure_api(authority):
    """With TLS; gives it and its port."""
    api = FakeKubeApi()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(SERVER).configure_cert(tls)
    serve = functools.partial(
        trio.serve_ssl_over_tcp, api._connection, 0, tls, host="127.0.0.1", https_compatible=True
    )
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        yield api, listeners[0].transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def kubeconfig(tmp_path, authority, proxy_url):
    cluster = {
        "server": f"https://{SERVER}:6443",
        "certificate-authority-data": base64.b64encode(authority.cert_pem.bytes()).decode(),
    }
    if proxy_url:
        cluster["proxy-url"] = proxy_url
    path = tmp_path / "config"
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    return str(path)


@pytest.mark.parametrize(
    ("scheme", "speak", "asked"),
    [
        ("http", FakeProxy.http, f"CONNECT {SERVER}:6443 HTTP/1.1"),
        ("socks5", FakeProxy.socks5, f"CONNECT {SERVER}:6443"),
    ],
)
async def test_the_proxy_is_given_the_name_and_sees_only_tls(
    tmp_path, authority, scheme, speak, asked
):
    async with (
        secure_api(authority) as (api, port),
        FakeProxy(port).serving(speak) as proxy,
        KubeClient.connect(
            kubeconfig(tmp_path, authority, f"{scheme}://me:secret@127.0.0.1:{proxy.port}")
        ) as kube,
    ):
        api.put("/api/v1/pods", {"metadata": {"namespace": "shop", "name": "a"}})
        assert [pod["metadata"]["name"] for pod in await kube.list(PODS)] == ["a"]
        assert (await anext(follow(kube, PODS))).object["metadata"]["name"] == "a"
        assert set(proxy.asked) == {asked}
        assert proxy.users == {"me:secret"}


async def test_a_proxy_of_the_environment_is_used(tmp_path, authority, monkeypatch):
    async with (
        secure_api(authority) as (_, port),
        FakeProxy(port).serving(FakeProxy.http) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with KubeClient.connect(kubeconfig(tmp_path, authority, "")) as kube:
            assert await kube.list(PODS) == []
        assert proxy.asked


async def test_a_proxy_that_refuses_is_told_of(tmp_path, authority):
    async with (
        FakeProxy(1, refusing=True).serving(FakeProxy.http) as proxy,
        KubeClient.connect(
            kubeconfig(tmp_path, authority, f"http://127.0.0.1:{proxy.port}")
        ) as kube,
    ):
        with pytest.raises(UnavailableError, match="403"):
            await kube.list(PODS)
