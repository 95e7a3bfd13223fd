"""The web page's routes: files for anybody, the mesh only for a token."""

from __future__ import annotations

import json

import pytest

from ambient.kube.io.client import KubeClient
from ambient.telemetry.io.http import Request, Routes
from istiod_lite.core.index import Index
from istiod_lite.io.dashboard import AUDIENCE, FILES, FOLDER, Dashboard
from istiod_lite.settings import Settings
from tests.fakes.kube_api import FakeKubeApi


def review(namespace, *, audience=AUDIENCE, authenticated=True):
    account = f"system:serviceaccount:{namespace}:ambient-dashboard"
    return {
        "authenticated": authenticated,
        "audiences": [audience],
        "user": {"username": account, "groups": ["system:serviceaccounts"]},
    }


@pytest.fixture
async def ask(tmp_path):
    """Asks for a path with a token whose review says what it is told."""
    async with FakeKubeApi().serving() as api:
        async with KubeClient.connect(api.kubeconfig(tmp_path)) as kube:
            dashboard = Dashboard(Settings(), kube, Index())

            async def asked(path, status=None, header="Bearer t"):
                api.tokens["t"] = status
                headers = {"authorization": header} if status is not None else {}
                return await dashboard.routes()[path](
                    Request("GET", path, {}, headers, peer="127.0.0.1")
                )

            asked.routes = dashboard.routes()
            yield asked


@pytest.mark.parametrize("file", FILES)
async def test_files_are_served_and_may_load_nothing_foreign(ask, file):
    answer = await ask(f"{FOLDER}/{file}")
    assert answer.status == 200
    assert answer.body
    headers = dict(answer.headers)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    for none in ("frame-ancestors", "form-action", "base-uri"):
        assert f"{none} 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_the_folder_without_its_slash_leads_there(ask):
    answer = await ask(FOLDER)
    assert (answer.status, answer.headers) == (308, (("Location", f"{FOLDER}/"),))


async def test_the_mesh_is_for_a_token_of_the_system_namespace(ask):
    answer = await ask(f"{FOLDER}/mesh.json", review("istio-system"))
    assert answer.status == 200
    assert json.loads(answer.body)["nodes"] == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_can_be_changed(ask, method):
    routes = Routes()
    for path, handler in ask.routes.items():
        routes.add(path, handler)
    for path in ask.routes:
        answer = await routes(Request(method, path, {}, {}, peer="127.0.0.1"))
        assert answer.status == 405


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (None, 401),  # also on the loopback
        (review("istio-system", authenticated=False), 401),
        (review("istio-system", audience="istio-ca"), 401),
        (review("shop"), 403),
    ],
)
async def test_others_learn_nothing(ask, status, code):
    answer = await ask(f"{FOLDER}/mesh.json", status)
    assert answer.status == code
    headers = dict(answer.headers)
    assert headers["Cache-Control"] == "no-store"
    assert headers.get("WWW-Authenticate") == ("Bearer" if code == 401 else None)
    assert b"nodes" not in (answer.body if isinstance(answer.body, bytes) else b"")
