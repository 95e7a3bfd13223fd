"""The demo's story with a real ztunnel on one node and ours on the other.

Give its path in AMBIENT_PEER_ZTUNNEL; without one these tests are skipped.
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

PEER = os.path.realpath(os.environ.get("AMBIENT_PEER_ZTUNNEL") or "/nonexistent")
NAME = "peer-ztunnel"
ENVIRONMENT = {
    "XDS_ADDRESS": "https://istiod.istio-system.svc:15012",
    "CA_ADDRESS": "https://istiod.istio-system.svc:15012",
    "XDS_ROOT_CA": "/var/run/secrets/istio/root-cert.pem",
    "CA_ROOT_CA": "/var/run/secrets/istio/root-cert.pem",
    "AUTH_TOKEN": "/var/run/secrets/tokens/istio-token",
    "RUST_LOG": "info",
}

pytestmark = pytest.mark.skipif(
    not os.access(PEER, os.X_OK),
    reason="AMBIENT_PEER_ZTUNNEL does not name a real ztunnel's executable",
)


@asynccontextmanager
async def mesh_with_peer_on(node: str) -> AsyncIterator[Stage]:
    """A mesh whose tunnel on one node is the real one."""
    mesh = await up(UpOptions(name=NAME))
    try:
        stage = Stage(mesh)
        await replace_tunnel_on(stage, node)
        yield stage
    finally:
        with trio.CancelScope(shield=True):
            await down(NAME)


async def replace_tunnel_on(stage: Stage, node: str) -> None:
    """Let the real tunnel serve one node, and ours the other."""
    ours = await stage.get("daemonset", "ztunnel", "-n", "istio-system")
    nodes = [one["metadata"]["name"] for one in (await stage.get("nodes"))["items"]]
    (other,) = [one for one in nodes if one != node]
    theirs = msgspec.json.decode(msgspec.json.encode(ours))
    theirs["metadata"] = {"name": "ztunnel-peer", "namespace": "istio-system"}
    pin(theirs, node)
    container = theirs["spec"]["template"]["spec"]["containers"][0]
    container["command"] = [PEER, "proxy", "ztunnel"]
    container["env"] += [{"name": key, "value": ENVIRONMENT[key]} for key in ENVIRONMENT]
    theirs["spec"]["selector"]["matchLabels"]["flavour"] = "peer"
    theirs["spec"]["template"]["metadata"]["labels"]["flavour"] = "peer"
    theirs.pop("status", None)
    pin(ours, other)
    ours["metadata"].pop("managedFields", None)
    await stage.kubectl("replace", "-f", "-", stdin=msgspec.json.encode(ours))
    await stage.kubectl("apply", "-f", "-", stdin=msgspec.json.encode(theirs))
    for name in ("ztunnel", "ztunnel-peer"):
        what = ["daemonset", name, "-n", "istio-system", "--timeout=60s"]
        await stage.kubectl("rollout", "status", *what)


def pin(daemon_set: dict[str, object], node: str) -> None:
    """Let a DaemonSet run on one node only."""
    spec = daemon_set["spec"]["template"]["spec"]  # type: ignore[index]
    spec["nodeSelector"] = {"kubernetes.io/hostname": node}


@pytest.mark.parametrize("node", ["node-1", "node-2"])
async def test_the_story_holds_with_a_real_ztunnel_on(
    node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    outcomes = []
    async with mesh_with_peer_on(node) as stage, echo_connection(stage):
        await play(STORY, stage, outcomes.append)
    assert [(one.name, one.detail) for one in outcomes if not one.ok] == []
