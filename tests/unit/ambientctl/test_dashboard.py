"""The page by a local port: what a browser is started with holds no token."""

from __future__ import annotations

from functools import partial

import httpx
import pytest
import trio

from ambientctl.cluster import Cluster
from ambientctl.dashboard import PAGES, Once, serve
from tests.unit.ambientctl.meshes import build, istiod

SYSTEM = "istio-system"


def test_an_address_leads_to_the_page_once_and_to_whoever_knows_it():
    once = Once("/dashboard/#token=secret")
    wrong = once.answer(b"GET /once/guessed HTTP/1.1\r\n\r\n")
    assert wrong.startswith(b"HTTP/1.1 410 Gone\r\n")
    asked = f"GET {once.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert b"\r\nLocation: /dashboard/#token=secret\r\n" in once.answer(asked)
    assert b"token" not in once.answer(asked)
    assert once.answer(b"POST" + asked[3:]) is None
    assert Once("/").path != Once("/").path


@pytest.mark.parametrize("other", [b"GET /dashboard/ HTTP/1.1\r\n", b"", b"\x16\x03\x01", b"GET"])
def test_everything_else_goes_on_to_the_page(other):
    assert Once("/").answer(other) is None


def test_the_page_behind_it(ambientctl):
    build(ambientctl)
    metadata = f"{{name: ambient-dashboard, namespace: {SYSTEM}}}"
    ambientctl.apply(f"apiVersion: v1\nkind: ServiceAccount\nmetadata: {metadata}")
    istiod(ambientctl, **{"/dashboard/": "the page"})
    cluster = Cluster(str(ambientctl.kubeconfig), None, None)

    async def browse() -> None:
        told: list[tuple[str, str]] = []
        page = partial(serve, cluster, PAGES["mesh"], SYSTEM, ("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(page, lambda *addresses: told.append(addresses))
            with trio.fail_after(30):
                while not told:
                    await trio.sleep(0.01)
                ((url, once),) = told
                assert "#token=" in url
                assert "token" not in once
                async with httpx.AsyncClient(trust_env=False) as http:
                    first = await http.get(once)
                    assert (first.status_code, first.next_request.url) == (303, url)
                    assert (await http.get(once)).status_code == 410
                    assert (await http.get(url)).text == "the page"
            nursery.cancel_scope.cancel()

    trio.run(browse)
