"""A node tunnel starts on every node: what the library drags in is part of its size."""

import subprocess
import sys

import pytest

DATA_PLANE = (
    *("ambient.cli.run", "ambient.telemetry.io.metrics_http", "ambient.xds.io.session"),
    *("ambient.identity.io.ca_client", "ambient.identity.io.cert_store"),
    *("ambient.state.core.mesh", "ambient.policy.core.decide", "ambient.policy.core.explain"),
)
HEAVY = {"kubernetes", "httpx", "h2", "pyroute2", "hypercorn", "opentelemetry", "rich", "envoy"}


@pytest.mark.parametrize("modules", [DATA_PLANE, ("ztunnel.app", "ambient.cli.run")])
def test_the_data_plane_loads_nothing_that_it_does_not_use(modules):
    script = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not HEAVY.intersection(name.partition(".")[0] for name in done.stdout.split())
