"""What programs of a mesh under traffic expose is what the page of metrics lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ambient.telemetry.core.metric_names import TRAFFIC_LABELS
from docs.reference import metrics
from docs.reference.metrics import Row
from tests.docs.page import Command
from tests.docs.shell import Shell

SUFFIXES = ("_bucket", "_sum", "_count", "_created")
LOCALITY = {"source_region", "source_zone", "destination_region", "destination_zone"}
"""Which waypoints leave out."""
STEPS = (
    "ambientctl local up --nodes 1",
    'eval "$(ambientctl local env)"',
    "kubectl label namespace bookinfo istio.io/dataplane-mode=ambient",
    "ambientctl check --wait 60",
    "kubectl exec -n bookinfo deploy/client -- curl -sS http://details:9080/details/0",
    "ambientctl waypoint apply -n bookinfo --enroll-namespace --wait",
)
REQUEST = "kubectl exec -n bookinfo deploy/client -- curl -sS http://reviews:9080/reviews/0"
PROGRAMS = {
    "ztunnel": ("istio-system", "app=ztunnel", "15020/metrics", metrics.ZTUNNEL,
                "istio_tcp_connections_opened_total"),
    "waypoint": ("bookinfo", "gateway.networking.k8s.io/gateway-name=waypoint",
                 "15020/stats/prometheus", metrics.WAYPOINT, "istio_requests_total"),
    "istiod": ("istio-system", "app=istiod", "15014/metrics",
               [*metrics.control_plane(), *metrics.ISTIOD], "pilot_xds_pushes"),
}  # fmt: skip


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("metrics"))
    try:
        for text in STEPS:
            shell.take(Command(0, text, ()))
        yield shell
    finally:
        shell.run("ambientctl local down")


def scrape(mesh: Shell, namespace: str, selector: str, path: str) -> str:
    address = "-o jsonpath={.items[0].status.podIP}"
    status, text = mesh.run(
        f"{REQUEST} > /dev/null; ip=$(kubectl get pods -n {namespace} -l {selector} {address}); "
        f"ambientctl local shell node-1 -- curl -sS http://$ip:{path}"
    )
    assert status == 0, text
    return text


def named(rows: Sequence[Row]) -> dict[str, set[str]]:
    return {
        row.name: {
            label
            for one in row.labels
            for label in (TRAFFIC_LABELS if one == metrics.TRAFFIC else (one,))
        }
        for row in rows
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_names_and_labels_are_on_the_page(mesh: Shell, program: str) -> None:
    namespace, selector, path, rows, sure = PROGRAMS[program]
    text = ""

    def has_it() -> bool:
        nonlocal text
        text = scrape(mesh, namespace, selector, path)
        return f"\n{sure}{{" in text

    mesh.until(has_it, lambda: text)
    table, wrong = named(rows), set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            if name not in table:
                name = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)
            labels = set(sample.labels) - {"le"}
            if name.startswith("process_"):
                continue
            wanted = table.get(name, {"(not on the page)"})
            if labels not in (wanted, wanted - LOCALITY if program == "waypoint" else wanted):
                wrong.add((name, tuple(sorted(labels ^ wanted))))
    assert wrong == set()
