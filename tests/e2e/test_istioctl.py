"""The real istioctl, reading and writing our mesh.

Give its path in AMBIENT_PEER_ISTIOCTL; without one these tests are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import trio
import yaml

from ambientctl.demo.stage import Stage, until
from ambientctl.demo.story import ECHO_CLIENT
from ambientctl.local.up import UpOptions, down, up

PEER = os.path.realpath(os.environ.get("AMBIENT_PEER_ISTIOCTL") or "/nonexistent")
NAME = "peer-istioctl"
DEADLINE_S = 60
API_SERVER = "https://10.96.0.1:443"

pytestmark = pytest.mark.skipif(
    not os.access(PEER, os.X_OK),
    reason="AMBIENT_PEER_ISTIOCTL does not name a real istioctl's executable",
)

STRICT_WITH_A_POLICY = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: bookinfo}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ratings, namespace: bookinfo}
spec:
  selector: {matchLabels: {app: ratings}}
  action: DENY
  rules:
  - from:
    - source: {notPrincipals: [cluster.local/ns/bookinfo/sa/client], ipBlocks: [10.244.0.0/16]}
    - source: {serviceAccounts: [bookinfo/nobody]}
    - source: {notNamespaces: [bookinfo]}
    to: [{operation: {ports: ["9080"]}}]
"""


class Istioctl:
    """Runs it on a node of the mesh, where services have their addresses."""

    def __init__(self, stage: Stage, pod: str, folder: Path) -> None:
        self.stage = stage
        self._pod = pod
        config = yaml.safe_load(stage.mesh.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = API_SERVER
        self._config = folder / "kubeconfig"
        self._config.write_text(yaml.safe_dump(config))
        self.control_plane: tuple[str, ...] = ()

    async def __call__(self, *arguments: str) -> str:
        command = [PEER, "--kubeconfig", str(self._config), *arguments]
        with trio.fail_after(DEADLINE_S):
            done = await self.stage.mesh.exec(self._pod, "istio-system", command)
        assert done.code == 0, (arguments, done.out, done.err)
        return done.out

    async def rows(self, *arguments: str) -> list[list[str]]:
        return [line.split() for line in (await self(*arguments)).splitlines() if line.strip()]


@asynccontextmanager
async def mesh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Istioctl]:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    made = await up(UpOptions(name=NAME))
    try:
        stage = Stage(made)
        istiod = await stage.get("pods", "-n", "istio-system", "-l", "app=istiod")
        istioctl = Istioctl(stage, istiod["items"][0]["metadata"]["name"], folder)
        service = await stage.get("service", "istiod", "-n", "istio-system")
        address = f"{service['spec']['clusterIP']}:15012"
        flags = ("--xds-address", address, "--authority", "istiod.istio-system.svc", "--insecure")
        istioctl.control_plane = flags
        yield istioctl
    finally:
        with trio.CancelScope(shield=True):
            await down(NAME)


async def enrolled(stage: Stage) -> None:
    await stage.kubectl("label", "namespace", "bookinfo", "istio.io/dataplane-mode=ambient")

    async def look() -> str | None:
        pods = (await stage.get("pods", "-n", "bookinfo"))["items"]
        missing = [
            pod["metadata"]["name"]
            for pod in pods
            if (pod["metadata"].get("annotations") or {}).get("ambient.istio.io/redirection")
            != "enabled"
        ]
        return None if missing else "all"

    with trio.fail_after(DEADLINE_S):
        await until(look)


async def dump_of(istioctl: Istioctl, node: str, folder: Path) -> tuple[dict, str]:
    """The configuration of a node's tunnel, and a file with it."""
    pods = (await istioctl.stage.get("pods", "-n", "istio-system", "-l", "app=ztunnel"))["items"]
    (pod,) = [one for one in pods if one["spec"]["nodeName"] == node]
    command = ["curl", "-s", "http://localhost:15000/config_dump"]
    done = await istioctl.stage.mesh.exec(pod["metadata"]["name"], "istio-system", command)
    (folder / "dump.json").write_text(done.out)
    return json.loads(done.out), str(folder / "dump.json")


async def test_ztunnel_config_prints_every_row_of_our_tunnels_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh(tmp_path, monkeypatch) as istioctl:
        stage = istioctl.stage
        await enrolled(stage)
        await istioctl("waypoint", "apply", "-n", "bookinfo", "--enroll-namespace", "--wait")
        await stage.apply(STRICT_WITH_A_POLICY)
        client = (await stage.get("pods", "-n", "bookinfo", "-l", "app=client"))["items"][0]
        name, node = client["metadata"]["name"], client["spec"]["nodeName"]

        async def configured() -> str | None:
            dump, _ = await dump_of(istioctl, node, tmp_path)
            services = [one for one in dump["services"] if one["namespace"] == "bookinfo"]
            bound = all(one.get("waypoint") for one in services if one["name"] != "waypoint")
            judged = {"ratings", "istio_converted_static_strict"} <= {
                one["name"] for one in dump["policies"]
            }
            return "yes" if services and bound and judged else None

        with trio.fail_after(DEADLINE_S):
            await until(configured)
        # A connection that stays: the echo service answers line by line.
        endless = ["python", "-u", "-c", ECHO_CLIENT]
        async with stage.mesh.exec_stream(name, "bookinfo", endless) as open_connection:

            async def connected() -> str | None:
                await open_connection.send(b"hello\n")
                dump, _ = await dump_of(istioctl, node, tmp_path)
                states = dump["workloadState"].values()
                return "yes" if any(one["connections"]["outbound"] for one in states) else None

            with trio.fail_after(DEADLINE_S):
                await until(connected)
            dump, file = await dump_of(istioctl, node, tmp_path)
            workloads = await istioctl.rows("ztunnel-config", "workloads", "-f", file)
            connections = await istioctl.rows("ztunnel-config", "connections", "-f", file)
            raw = await istioctl.rows("ztunnel-config", "connections", "-f", file, "--raw")

        assert {(row[0], row[1]) for row in workloads[1:]} == {
            (one["namespace"], one["name"]) for one in dump["workloads"]
        }
        of_client = next(row for row in workloads if row[1] == name)
        assert of_client == ["bookinfo", name, client["status"]["podIP"], node, "None", "HBONE"]
        outbound = [row for row in connections if row[:2] == [f"{name}.bookinfo", "Outbound"]]
        assert any("tcp-echo.bookinfo.svc.cluster.local:9000" in row for row in outbound)
        assert all(row[-1] == "HBONE" for row in outbound)
        assert any(row[2].startswith(f"{client['status']['podIP']}:") for row in raw)

        services = await istioctl.rows("ztunnel-config", "services", "-f", file)
        reviews = next(row for row in services if row[1] == "reviews")
        assert reviews[3:] == ["waypoint", "3/3"]
        assert {(row[0], row[1]) for row in services[1:]} == {
            (one["namespace"], one["name"]) for one in dump["services"]
        }
        policies = await istioctl.rows("ztunnel-config", "policies", "-f", file)
        assert ["bookinfo", "ratings", "Deny", "WorkloadSelector"] in policies
        assert {(row[0], row[1]) for row in policies[1:]} == {
            (one["namespace"], one["name"]) for one in dump["policies"]
        }
        certificates = await istioctl.rows("ztunnel-config", "certificates", "-f", file)
        identity = "spiffe://cluster.local/ns/bookinfo/sa/client"
        mine = [row for row in certificates if row[0] == identity]
        assert [row[1:4] for row in mine] == [
            ["Leaf", "Available", "true"], ["Root", "Available", "true"]
        ]  # fmt: skip
        everything = await istioctl("ztunnel-config", "all", "-f", file, "-o", "json")
        assert identity in everything


async def test_the_control_plane_answers_istioctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh(tmp_path, monkeypatch) as istioctl:
        stage, flags = istioctl.stage, istioctl.control_plane
        pods = (await stage.get("pods", "-n", "istio-system", "-l", "app=ztunnel"))["items"]
        names = sorted(f"{one['metadata']['name']}.istio-system" for one in pods)
        rows = await istioctl.rows("proxy-status", *flags)
        assert rows[0] == ["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED", "TYPES"]
        assert sorted(row[0] for row in rows[1:]) == names
        assert all(row[1] == "Kubernetes" and row[2].startswith("istiod-") for row in rows[1:])
        assert all(row[3] == version("ambient-mesh") for row in rows[1:])
        assert all(row[-2:] == ["2", "(WADS,WDS)"] for row in rows[1:])
        columns = (await istioctl("proxy-status", "-v1", *flags)).splitlines()
        assert all(line.count("SYNCED") == 2 for line in columns[1:])
        # istioctl decodes the page, so its times have to be times.
        states = json.loads(await istioctl("x", "internal-debug", "syncz", *flags))
        assert {one["proxy"] for one in states} == set(names)
        pages = json.loads(await istioctl("x", "internal-debug", "list", *flags))
        for page in pages:
            assert "error" not in json.loads(
                await istioctl("x", "internal-debug", page, *flags)
            ) or (page == "config_dump")
        dumped = await istioctl("x", "internal-debug", f"config_dump?proxyID={names[0]}", *flags)
        assert json.loads(dumped)["proxy"] == names[0]
        known = json.loads(await istioctl("x", "internal-debug", "ambientz", *flags))
        assert {"reviews", "istiod"} <= {one["name"] for one in known["services"]}
        versions = await istioctl("x", "version", *flags)
        assert f"control plane version: {version('ambient-mesh')}" in versions
        assert "(2 proxies)" in versions


async def test_waypoints_live_and_die_by_istioctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh(tmp_path, monkeypatch) as istioctl:
        await enrolled(istioctl.stage)
        done = await istioctl(
            "waypoint", "apply", "-n", "bookinfo", "--for", "all", "--enroll-namespace", "--wait"
        )
        assert "waypoint bookinfo/waypoint is ready!" in done
        rows = await istioctl.rows("waypoint", "list", "-A")
        assert rows[1:] == [["bookinfo", "waypoint", "default", "all", "True"]]
        status = await istioctl.rows("waypoint", "status", "-n", "bookinfo")
        assert status[1][:4] == ["waypoint", "True", "Programmed", "Programmed"]
        rows = await istioctl.rows("proxy-status", *istioctl.control_plane)
        assert any(row[0].startswith("waypoint-") for row in rows)
        await istioctl("waypoint", "delete", "--all", "-n", "bookinfo")
        assert "No waypoints found." in await istioctl("waypoint", "list", "-n", "bookinfo")
