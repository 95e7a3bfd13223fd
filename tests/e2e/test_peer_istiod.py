"""Our tunnels and node agent under a real istiod, which takes over from ours in a running mesh.

Give its path (pilot-discovery) in AMBIENT_PEER_ISTIOD; without one these tests are skipped.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from ambientctl.demo.checks import play
from ambientctl.demo.stage import Stage
from ambientctl.demo.story import STORY, echo_connection
from ambientctl.local.up import UpOptions, down, up
from tests.e2e import test_peer_ztunnel

PEER = os.path.realpath(os.environ.get("AMBIENT_PEER_ISTIOD") or "/nonexistent")
NAME = "peer-istiod"
FIRST_OF_WAYPOINTS = "waypoint-splits-90-10"
"""From here on the story needs our waypoint, which a real istiod does not configure."""
ENVIRONMENT = {
    "REVISION": "default",
    "CLUSTER_ID": "Kubernetes",
    "PILOT_ENABLE_AMBIENT": "true",
    "PILOT_CERT_PROVIDER": "istiod",
    "CA_TRUSTED_NODE_ACCOUNTS": "istio-system/ztunnel",
    "ENABLE_LEADER_ELECTION": "false",
}
EVERYTHING = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: peer-istiod}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: istiod, namespace: istio-system}]
"""

pytestmark = pytest.mark.skipif(
    not os.access(PEER, os.X_OK),
    reason="AMBIENT_PEER_ISTIOD does not name a real istiod's executable (pilot-discovery)",
)


@asynccontextmanager
async def mesh_under_a_real_istiod() -> AsyncIterator[Stage]:
    """Started with ours, whose root and objects the real one takes over."""
    mesh = await up(UpOptions(name=NAME))
    try:
        stage = Stage(mesh)
        await stage.apply(EVERYTHING)
        istiod = await stage.get("deployment", "istiod", "-n", "istio-system")
        container = istiod["spec"]["template"]["spec"]["containers"][0]
        container["command"] = [PEER, "discovery", "--keepaliveMaxServerConnectionAge=30m"]
        container["env"] = [one for one in container["env"] if one["name"].startswith("POD_")]
        container["env"] += [{"name": key, "value": ENVIRONMENT[key]} for key in ENVIRONMENT]
        istiod["metadata"].pop("managedFields", None)
        await stage.kubectl("replace", "-f", "-", stdin=msgspec.json.encode(istiod))
        what = ["deployment", "istiod", "-n", "istio-system", "--timeout=60s"]
        await stage.kubectl("rollout", "status", *what)
        yield stage
    finally:
        with trio.CancelScope(shield=True):
            await down(NAME)


PEER_TUNNEL = pytest.mark.skipif(
    not os.access(test_peer_ztunnel.PEER, os.X_OK),
    reason="AMBIENT_PEER_ZTUNNEL does not name a real ztunnel's executable",
)


@pytest.mark.parametrize(
    "peer_node", ["", pytest.param("node-1", marks=PEER_TUNNEL)], ids=["ours", "mixed tunnels"]
)
async def test_the_story_holds_under_a_real_istiod(
    peer_node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    names = [check.name for check in STORY]
    story = STORY[: names.index(FIRST_OF_WAYPOINTS)]
    outcomes = []
    async with mesh_under_a_real_istiod() as stage:
        if peer_node:
            await test_peer_ztunnel.replace_tunnel_on(stage, peer_node)
        async with echo_connection(stage):
            await play(story, stage, outcomes.append)
    assert [(one.name, one.detail) for one in outcomes if not one.ok] == []
