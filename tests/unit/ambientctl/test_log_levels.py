"""Log levels of tunnels and waypoints, in istioctl's words."""

from __future__ import annotations

import pytest

from ambient.telemetry.io.http import Response
from tests.unit.ambientctl.meshes import build


@pytest.fixture
def asked(ambientctl):
    build(ambientctl, policies="")
    found = []

    def logging(request):
        found.append((request.method, dict(request.query)))
        if request.query.get("level") == "loud":
            return Response(400, "'loud' is not a level\nusage: many lines\n")
        return Response(200, "current log level is debug\n")

    for pod in ("istio-system/ztunnel-1", "istio-system/ztunnel-2", "shop/waypoint-1"):
        ambientctl.program(pod, 15000, {"/logging": logging})
    ambientctl.asked = found
    return ambientctl


def test_levels_of_a_waypoint(asked):
    said = asked.ok("pc", "log", "waypoint.shop", "--level", "access:debug,xds=warn")
    assert said == "waypoint-1.shop:\ncurrent log level is debug\n"
    asked.ok("pc", "log", "deploy/waypoint.shop", "-r")
    asked.ok("pc", "log", "waypoint-1.shop", "--level", "critical")
    levels = [query for _, query in asked.asked]
    assert levels == [{"level": "access:debug,xds=warn"}, {"reset": ""}, {"level": "error"}]
    assert asked("pc", "log", "reviews-1.shop").status == 1


def test_levels_of_all_tunnels_or_of_a_node(asked):
    said = asked.ok("zc", "log", "--level", "warning")
    assert said.count("current log level") == 2
    asked.ok("zc", "log", "--node", "node-1")
    assert asked.asked == [("POST", {"level": "warn"})] * 2 + [("POST", {})]


def test_what_is_no_level_is_one_line(asked):
    done = asked("zc", "log", "--node", "node-1", "--level", "loud")
    assert done.status == 1
    assert done.err.splitlines()[0].endswith("answers 400: 'loud' is not a level")
    assert "usage" not in done.err
