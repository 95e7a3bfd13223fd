"""The web page of a mesh under traffic, in a real browser."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import pytest

from tests.browser import Tab, chromium, missing
from tests.e2e.test_local import AMBIENTCTL, Host

DENY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/bookinfo/sa/client]}}]}]
"""
TRAFFIC = """
while true; do
  curl -s -o /dev/null http://productpage:9080/productpage
  curl -s -o /dev/null --max-time 1 http://details:9080/details/0
done
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The sample application in the mesh, with a policy and traffic."""
    if missing():
        pytest.skip(missing())
    folder = tmp_path_factory.mktemp("state")
    made = Host(folder)
    made.local("up")
    traffic: subprocess.Popen[bytes] | None = None
    try:
        kubeconfig = folder / "ambient-mesh" / "default" / "kubeconfig"
        made.environment["KUBECONFIG"] = str(kubeconfig)
        made.kubectl("label", "namespace", "bookinfo", "istio.io/dataplane-mode=ambient")
        made.kubectl("apply", "-f", "-", stdin=DENY)
        traffic = start(
            made, "local", "exec", "client", "-n", "bookinfo", "--", "sh", "-c", TRAFFIC
        )
        yield made
    finally:
        made.run(AMBIENTCTL, "local", "down")
        if traffic is not None:
            stop(traffic)


def start(host: Host, *arguments: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [AMBIENTCTL, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=host.environment | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def url(host: Host) -> Iterator[str]:
    """What ``ambientctl dashboard`` prints."""
    process = start(host, "dashboard", "--no-browser", stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
    finally:
        stop(process)


def text_of(tab: Tab, name: str) -> str:
    tab.evaluate(f"document.querySelector('[data-tab={name}]').click()")
    found: str = tab.evaluate("document.getElementById('tables').innerText")
    return found


def test_the_page_shows_the_mesh_as_it_is(url: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/#token=\S+", url)
    with chromium() as tab:
        tab.open(url)
        tab.until("document.getElementById('state').innerText.includes('rates over')")
        assert "token" not in tab.evaluate("location.href")

        call = "bookinfo/client bookinfo/productpage"
        tab.until(f"meshGraph.$id('{call}').hasClass('ok')")
        assert "🔒" in tab.evaluate(f"meshGraph.$id('{call}').data('label')")
        denied = "bookinfo/client bookinfo/details"
        tab.until(f"meshGraph.$id('{denied}').hasClass('denied')")
        label = tab.evaluate(f"meshGraph.$id('{denied}').data('label')")
        assert "🔒" in label  # who is refused came with mutual TLS all the same
        assert "⛔" in label
        tab.evaluate(f"void meshGraph.$id('{denied}').select()")
        assert "mutual TLS" in tab.until("document.getElementById('details').innerText")

        assert "1 of 1" in text_of(tab, "Workloads")
        assert re.search(r"bookinfo/no-client\s+L4\s+DENY.*\s[1-9]", text_of(tab, "Policies"))
        assert "root certificate" in text_of(tab, "Certificates")
        assert text_of(tab, "Proxies").count("ztunnel-") == 2
        assert "nobody looks into HTTP" in text_of(tab, "Waypoints")
        assert tab.errors == []


def test_without_its_token_the_page_says_how_to_get_one(url: str) -> None:
    with chromium() as tab:
        tab.open(url.partition("#")[0])
        said = tab.until("document.getElementById('state').className === 'bad' && "
                         "document.getElementById('state').innerText")  # fmt: skip
        assert "ambientctl dashboard gets one" in said


def large_mesh(workloads: int) -> bytes:
    """What the control plane tells of so many workloads in ten namespaces, each calling another."""
    names = [f"team-{n % 10}/app-{n}" for n in range(workloads)]
    nodes = [
        {"id": name, "namespace": name.split("/")[0], "name": name.split("/")[1],
         "kind": "workload", "pods": 2, "healthy": 2, "inMesh": 2, "identities": ["spiffe://a"],
         "versions": ["v1"], "services": [], "nodes": ["node-1"]}
        for name in names
    ]  # fmt: skip
    counts = {"requests": 1, "errors": 0, "refused": 0, "p50Ms": 1, "p99Ms": 2, "opened": 0,
              "secured": 1, "denied": 0, "failed": 0, "sent": 1, "received": 1}  # fmt: skip
    edges = [
        {
            "source": name,
            "target": names[(n * 7 + 1) % workloads],
            "service": "",
            "waypointHop": False,
        }
        | counts
        for n, name in enumerate(names)
    ]
    empty: dict[str, list[str]] = {
        name: [] for name in ("unreachable", "policies", "waypoints", "certificates", "problems",
                              "proxies")
    }  # fmt: skip
    told = {"version": "1", "staleSeconds": 0, "measuredSeconds": 5, "nodes": nodes, "edges": edges}
    return json.dumps(told | empty).encode()


@contextmanager
def served(mesh: bytes) -> Iterator[str]:
    """The page's own files with this mesh behind them."""

    class Page(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(files("istiod_lite") / "static"))

        def do_GET(self) -> None:
            if self.path != "/mesh.json":
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(mesh)))
            self.end_headers()
            self.wfile.write(mesh)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_of_a_thousand_workloads_namespaces_are_drawn_until_one_is_chosen() -> None:
    if missing():
        pytest.skip(missing())
    with served(large_mesh(1000)) as url, chromium() as tab:
        tab.open(url)
        tab.until("document.getElementById('note').innerText.includes('1000 workloads')")
        assert tab.evaluate("meshGraph.nodes().length") == 10
        label = tab.evaluate("meshGraph.$id('ns:team-3 ns:team-2').data('label')")
        assert label == "🔒 100 req/s"
        assert text_of(tab, "Workloads").count("spiffe://a") == 1000
        tab.evaluate("document.querySelector('[data-tab=Graph]').click()")
        tab.evaluate("void meshGraph.$id('ns:team-3').select()")
        tab.until("meshGraph.$id('team-3/app-3').length === 1")
        assert tab.evaluate("document.getElementById('namespace').value") == "team-3"
        # By keyboard, as a screen reader's user goes.
        tab.evaluate("document.getElementById('tab-Graph').focus()")
        press = "new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true})"
        tab.evaluate(f"document.activeElement.dispatchEvent({press})")
        assert tab.evaluate("document.activeElement.id") == "tab-Proxies"
        assert "No proxy is connected" in tab.evaluate("document.body.innerText")
        assert tab.errors == []
