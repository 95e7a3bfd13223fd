"""The web page of a mesh under traffic, in a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """The sample application in the mesh, with a policy and traffic."""
    if missing():
        pytest.skip(missing())
    made = Host(tmp_path)
    made.local("up")
    traffic: subprocess.Popen[bytes] | None = None
    try:
        kubeconfig = tmp_path / "ambient-mesh" / "default" / "kubeconfig"
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


def test_the_page_shows_the_mesh_as_it_is(url: str, tmp_path: Path) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/#token=\S+", url)
    with chromium(tmp_path / "profile") as tab:
        tab.open(url)
        tab.until("document.getElementById('state').innerText.includes('rates over')")
        assert "token" not in tab.evaluate("location.href")

        call = "bookinfo/client bookinfo/productpage"
        tab.until(f"meshGraph.$id('{call}').hasClass('ok')")
        assert "🔒" in tab.evaluate(f"meshGraph.$id('{call}').data('label')")
        denied = "bookinfo/client bookinfo/details"
        tab.until(f"meshGraph.$id('{denied}').hasClass('bad')")
        tab.evaluate(f"void meshGraph.$id('{denied}').select()")
        assert "mutual TLS" in tab.until("document.getElementById('details').innerText")

        assert "1 of 1" in text_of(tab, "Workloads")
        assert re.search(r"bookinfo/no-client\s+L4\s+DENY.*\s[1-9]", text_of(tab, "Policies"))
        assert "root certificate" in text_of(tab, "Certificates")
        assert text_of(tab, "Proxies").count("ztunnel-") == 2
        assert "nothing" in text_of(tab, "Waypoints")
        assert tab.errors == []


def test_without_its_token_the_page_says_how_to_get_one(url: str, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as tab:
        tab.open(url.partition("#")[0])
        said = tab.until("document.getElementById('state').className === 'bad' && "
                         "document.getElementById('state').innerText")  # fmt: skip
        assert "ambientctl dashboard gets one" in said
