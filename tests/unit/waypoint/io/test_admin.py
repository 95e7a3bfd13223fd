"""What operators ask a waypoint."""

from __future__ import annotations

import json

import pytest

from ambient.telemetry.io.http import Request, Routes
from ambient.telemetry.io.logs import levels
from tests.unit.waypoint.io.rig import rig
from waypoint.io.admin_pages import add_pages
from waypoint.settings import Settings

SETTINGS = Settings(pod_name="wp-1", pod_namespace="shop", instance_ip="10.0.0.5")


async def asked(made, path, method="GET", **query):
    routes = Routes()
    add_pages(routes, made.service, SETTINGS, "1.2.3")
    request = Request(method=method, path=path, query=query, headers={}, body=b"")
    answer = await routes(request)
    return answer.status, answer.body if isinstance(answer.body, str) else answer.body.decode()


async def test_clusters_and_their_endpoints():
    async with rig() as made:
        await (await made.caller()).get()
        _, text = await asked(made, "/clusters")
        _, dump = await asked(made, "/clusters", format="json")
    assert "::127.0.1.1:9080::health_flags::healthy\n" in text
    (cluster,) = json.loads(dump)["cluster_statuses"]
    assert {one["address"] for one in cluster["host_statuses"]} == {
        "127.0.1.1:9080",
        "127.0.1.2:9080",
    }


async def test_levels_of_logs_at_run_time():
    before = str(levels)
    async with rig() as made:
        try:
            assert (await asked(made, "/logging", "POST", level="access=error"))[0] == 200
            assert "access=error" in str(levels)
            status, text = await asked(made, "/logging", "POST", level="loud")
            assert (status, "usage" in text) == (400, True)
        finally:
            levels.replace(before)


@pytest.mark.parametrize(("draining", "state"), [(False, "LIVE"), (True, "DRAINING")])
async def test_who_this_is(draining, state):
    async with rig() as made:
        made.service.draining = draining
        _, text = await asked(made, "/server_info")
    info = json.loads(text)
    assert (info["version"], info["state"]) == ("1.2.3", state)
    assert info["node"]["id"].startswith("waypoint~10.0.0.5~wp-1.shop~")
