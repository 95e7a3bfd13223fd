"""The checked-in tracing example with the real collector and the real Jaeger in it.

Neither is a package of Debian or of the Python index; both build from the Go modules of their
projects. They are programs here, where the manifests have images of them.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scenarios.mesh import FOLDER, Mesh, until

EXAMPLE = Path("manifests/observability/tracing")
OBJECTS = list(yaml.safe_load_all((EXAMPLE / "tracing.yaml").read_text()))
PROGRAMS = {"collector": "AMBIENT_PEER_OTELCOL", "jaeger": "AMBIENT_PEER_JAEGER"}
"""Containers, and the environment variables with the path of what runs in each."""
PAGE = "http://productpage:9080/productpage"
JAEGER = "http://jaeger.istio-system:16686"


def program(container: str) -> str:
    path = os.environ.get(PROGRAMS[container])
    if not path:
        pytest.skip(f"{PROGRAMS[container]} is not set: the path of the real program")
    return path


def test_the_collector_takes_its_configuration(tmp_path: Path) -> None:
    (config,) = (one["data"]["config.yaml"] for one in OBJECTS if one["kind"] == "ConfigMap")
    path = tmp_path / "config.yaml"
    path.write_text(config)
    command = [program("collector"), "validate", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def traced(stage: Mesh, tmp_path: Path) -> Iterator[Mesh]:
    """The example as it is, and what its waypoints are told by it."""
    for one in OBJECTS:
        if one["kind"] == "Deployment":
            (container,) = one["spec"]["template"]["spec"]["containers"]
            command = [program(container["name"])]
            # As the image has it: otherwise it listens on the loopback.
            if container["name"] == "jaeger":
                command = ["env", "JAEGER_LISTEN_HOST=0.0.0.0", *command]
            container["command"] = command
    written = tmp_path / "tracing.yaml"
    written.write_text(yaml.safe_dump_all(OBJECTS))
    stage_config = FOLDER / "stage" / "mesh-config.yaml"
    mesh_config = yaml.safe_load(stage_config.read_text())
    mesh_config["data"]["mesh"] = yaml.safe_load((EXAMPLE / "values.yaml").read_text())[
        "meshConfig"
    ]
    told = tmp_path / "mesh-config.yaml"
    told.write_text(yaml.safe_dump(mesh_config))
    files = ("-f", written, "-f", EXAMPLE / "telemetry.yaml")
    stage.kubectl("apply", *files, "-f", told)
    try:
        stage.ready("istio-system", "otel-collector", "jaeger")
        yield stage
    finally:
        stage.kubectl("delete", *files, "--ignore-not-found")
        stage.kubectl("apply", "-f", stage_config)


def test_a_trace_of_three_services_is_in_jaeger(traced: Mesh) -> None:
    trace = ""

    def spans() -> list[dict[str, Any]]:
        found = traced.json(f"{JAEGER}/api/traces/{trace}").get("data") or []
        return [span for one in found for span in one["spans"]]

    def asked() -> bool:
        """Until the waypoint has the telemetry, requests leave no span."""
        nonlocal trace
        trace = secrets.token_hex(16)
        assert (
            traced.status(PAGE, "-H", f"traceparent: 00-{trace}-{secrets.token_hex(8)}-01") == 200
        )
        return traced.headers("ratings").get("traceparent", "").endswith("-01")

    until(asked)
    assert traced.status(PAGE, "-H", f"traceparent: 00-{trace}-{secrets.token_hex(8)}-01") == 200
    until(lambda: len({span["operationName"] for span in spans()}) >= 3)
    by_id = {span["spanID"]: span for span in spans()}
    parents = {
        ref["spanID"]
        for span in by_id.values()
        for ref in span["references"]
        if ref["spanID"] in by_id
    }
    assert parents, "spans of services that were asked hang below those that asked"
    services = traced.json(f"{JAEGER}/api/services")["data"]
    assert "waypoint.bookinfo" in services
