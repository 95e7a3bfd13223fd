"""A real Prometheus scrapes a mesh under traffic: every panel, rule and alert gets its data."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.observability.dashboards.__main__ import FOLDER
from tests.e2e.test_local import AMBIENTCTL, Host, until
from tests.observability.test_dashboards import FILES, loaded, panels

pytestmark = pytest.mark.netns

PACK = FOLDER.parents[1] / "prometheus"
PORT = 9090
VARIABLES = {
    "$__rate_interval": "15s",
    "$service": ".*",
    "$namespace": ".*",
    "$workload": ".*",
    "$pod": ".*",
}
RULES = [
    rule
    for path in sorted((PACK / "rules").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
QUIET = ("xds_connection_terminations",)
"""Metrics of what does not happen in a healthy mesh."""
DENY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: ratings}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/bookinfo/sa/client]}}]}]
"""
TRAFFIC = """
while true; do
  curl -s -o /dev/null http://productpage:9080/productpage
  curl -s -o /dev/null http://reviews:9080/nowhere
  curl -s -o /dev/null --max-time 1 http://%s:9080/ratings/0
done
"""


# The control plane has something to tell as long as the tests run.
CHANGES = """
while sleep 1; do
  echo "$POLICY" | sed "s/no-client/changes/; s/DENY/ALLOW/; s/ratings/nobody/" |
    sed "s/sa.client/sa\\/$(date +%s)/" | kubectl apply -f -
done
"""


class Prometheus:
    """It runs on a node and is asked there."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def get(self, *paths: str) -> list[Any]:
        """The answers to several questions at once; none where it does not answer yet."""
        urls = [f"http://127.0.0.1:{PORT}{path}" for path in paths]
        ask = ("curl", "-sS", "--max-time", "5", "-w", "\\n", *urls)
        answer = self._host.run(AMBIENTCTL, "local", "shell", "node-1", "--", *ask)
        lines = answer.stdout.splitlines()
        return [json.loads(line) for line in lines] if answer.returncode == 0 else []

    @property
    def ready(self) -> bool:
        return bool(self._host.run(*self._probe).returncode == 0)

    @property
    def _probe(self) -> list[str | Path]:
        url = f"http://127.0.0.1:{PORT}/-/ready"
        return [AMBIENTCTL, "local", "shell", "node-1", "--", "curl", "-sSf", url]

    def query(self, *exprs: str) -> list[list[dict[str, Any]]]:
        """The series that each expression has now."""
        words = (urllib.parse.urlencode({"query": expr}) for expr in exprs)
        answers = self.get(*(f"/api/v1/query?{each}" for each in words))
        for expr, answer in zip(exprs, answers, strict=True):
            assert answer["status"] == "success", (expr, answer)
        return [answer["data"]["result"] for answer in answers]


def pods(host: Host) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.kubectl("get", "pods", "-A", "-o", "json"))[
        "items"
    ]
    return found


def targets(host: Host) -> list[dict[str, Any]]:
    """What Prometheus itself would learn of pods: Debian's is built without that source."""
    found = []
    for pod in pods(host):
        labels = {
            "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
            "__meta_kubernetes_pod_name": pod["metadata"]["name"],
            "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
            "__meta_kubernetes_pod_ip": pod["status"]["podIP"],
            "__meta_kubernetes_pod_phase": pod["status"]["phase"],
        }
        for what in ("label", "annotation"):
            for key, value in pod["metadata"].get(f"{what}s", {}).items():
                name = re.sub(r"[^a-zA-Z0-9_]", "_", key)
                labels[f"__meta_kubernetes_pod_{what}_{name}"] = value
        found.append({"targets": [f"{pod['status']['podIP']}:80"], "labels": labels})
    return found


def configuration(host: Host, folder: Path) -> Path:
    """The shipped one, quicker, with its targets from a file."""
    loaded_config = yaml.safe_load((PACK / "prometheus.yml").read_text())
    loaded_config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    loaded_config["rule_files"] = [str(PACK / "rules" / "*.yaml")]
    (job,) = loaded_config["scrape_configs"]
    del job["kubernetes_sd_configs"]
    (folder / "targets.json").write_text(json.dumps(targets(host)))
    job["file_sd_configs"] = [{"files": [str(folder / "targets.json")]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(loaded_config))
    return path


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The sample application in the mesh, with a waypoint, a policy and traffic."""
    if shutil.which("prometheus") is None:
        pytest.skip("apt-get install --no-install-recommends prometheus")
    folder = tmp_path_factory.mktemp("observability")
    host = Host(folder)
    running: list[subprocess.Popen[bytes]] = []
    try:
        host.local("up")
        host.kubectl("label", "namespace", "bookinfo", "istio.io/dataplane-mode=ambient")
        kubeconfig = folder / "ambient-mesh" / "default" / "kubeconfig"
        host.environment["KUBECONFIG"] = str(kubeconfig)
        words = ("waypoint", "apply", "-n", "bookinfo", "--enroll-namespace", "--wait")
        assert host.run(AMBIENTCTL, *words).returncode == 0
        host.kubectl("apply", "-f", "-", stdin=DENY)
        ratings = next(
            pod["status"]["podIP"]
            for pod in pods(host)
            if pod["metadata"].get("labels", {}).get("app") == "ratings"
        )
        config = configuration(host, folder)
        host.environment["POLICY"] = DENY
        for command in (
            (AMBIENTCTL, "local", "exec", "client", "-n", "bookinfo", "--", "sh", "-c",
             TRAFFIC % ratings),
            (AMBIENTCTL, "local", "shell", "node-1", "--", "prometheus",
             f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{PORT}"),
            ("sh", "-c", CHANGES),
        ):  # fmt: skip
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            running.append(
                subprocess.Popen(command, env=host.environment, start_new_session=True, **quiet)
            )
        asked = Prometheus(host)
        until(lambda: asked.ready)
        yield asked
    finally:
        host.run(AMBIENTCTL, "local", "down")
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_every_program_of_the_mesh_is_scraped(prometheus: Prometheus) -> None:
    def up() -> set[str]:
        (series,) = prometheus.query("up == 1")
        return {each["metric"].get("app", "") for each in series}

    until(lambda: up() >= {"istiod", "ztunnel", "istio-cni-node", "waypoint"})
    assert prometheus.query("up == 0") == [[]]


def test_a_denial_is_counted(prometheus: Prometheus) -> None:
    until_data(prometheus, ['istio_tcp_connections_failed_total{response_flags="DENY"} > 2'])


@pytest.mark.parametrize("name", FILES)
def test_every_panel_has_data(prometheus: Prometheus, name: str) -> None:
    targets = [target["expr"] for panel in panels(loaded(name)) for target in panel["targets"]]
    quiet = [expr for expr in targets if any(metric in expr for metric in QUIET)]
    prometheus.query(*map(resolved, quiet), "1")  # these are at least understood
    until_data(prometheus, [resolved(expr) for expr in targets if expr not in quiet])


def test_every_recorded_series_exists(prometheus: Prometheus) -> None:
    until_data(prometheus, [rule["record"] for rule in RULES if "record" in rule])


def test_a_healthy_mesh_raises_no_alert_but_that_of_the_denials(prometheus: Prometheus) -> None:
    until_data(prometheus, ["ambient:requests:rate1m"])
    (answer,) = prometheus.get("/api/v1/rules?type=alert")
    every = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    raised = {rule["name"] for rule in every if rule["state"] != "inactive"}
    assert all(rule["health"] == "ok" for rule in every)
    assert raised <= {"MeshPolicyDenialsSpike", "MeshPlaintextTraffic"}


def resolved(expr: str) -> str:
    """As Grafana fills it in."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def until_data(prometheus: Prometheus, exprs: list[str]) -> None:
    """A fraction whose denominator was zero a moment ago is no data yet."""
    missing = exprs

    def there() -> bool:
        nonlocal missing
        found = prometheus.query(*missing)
        missing = [
            expr
            for expr, series in zip(missing, found, strict=True)
            if all(each["value"][1] == "NaN" for each in series)
        ]
        return not missing

    try:
        until(there)
    except AssertionError:
        pytest.fail(f"no data for {missing}")
