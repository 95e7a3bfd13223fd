"""The CNI chain of a node, executed as a container runtime does (CNI specification 1.0).

The configuration is read again for every pod, so that a plugin which chained itself in a moment ago
already sees the next one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ambient.api.errors import MeshError
from ambientctl.local.fabric import CNI_BIN_ON_NODE, Node
from ambientctl.local.layout import CONTAINER_PATH, DEBIAN_CNI, VENV_BIN, NodeLayout
from ambientctl.local.runtime import Process, ProcessSpec, Runtime

INTERFACE: Final = "eth0"
PRIMARY_CONFIG: Final = "10-local.conflist"


class CniError(MeshError):
    """A plugin refused, or the configuration cannot be used."""


class ConfigList(msgspec.Struct, frozen=True):
    """A network configuration list (CNI specification, section 1)."""

    name: str
    plugins: list[dict[str, Any]]
    cniVersion: str = "0.1.0"  # noqa: N815 - the specification's spelling


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """What CNI is told about a pod."""

    container_id: str
    namespace: str
    name: str
    uid: str
    process: Process
    """Keeps the pod's network namespace open."""
    port_mappings: list[dict[str, Any]]
    """hostPort to containerPort, as the ``portMappings`` capability wants it."""

    def arguments(self) -> str:
        """CNI_ARGS as containerd writes them."""
        return (
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.name};"
            f"K8S_POD_INFRA_CONTAINER_ID={self.container_id};K8S_POD_UID={self.uid}"
        )


def write_primary(node: NodeLayout) -> None:
    """The node's own network: ptp and host-local from Debian, host ports by portmap."""
    config = {
        "cniVersion": "1.0.0",
        "name": "local",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.pod_range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    # On the node's own /run: the machine's /var/lib stays as it is.
                    "dataDir": "/run/cni/networks",
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }
    target = node.cni_folder / PRIMARY_CONFIG
    target.write_bytes(msgspec.json.format(msgspec.json.encode(config)))


def read_config(folder: Path) -> ConfigList:
    """The first valid configuration in name order. Raises CniError where there is none."""
    reasons = []
    for path in sorted(folder.glob("*")):
        try:
            if path.suffix == ".conflist":
                found = msgspec.json.decode(path.read_bytes(), type=ConfigList)
            elif path.suffix == ".conf":
                raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
                found = ConfigList(raw.get("name", ""), [raw], raw.get("cniVersion", "0.1.0"))
            else:
                continue
        except (msgspec.MsgspecError, OSError) as error:
            reasons.append(f"{path.name}: {error}")
            continue
        if found.name and found.plugins and all(plugin.get("type") for plugin in found.plugins):
            return found
        reasons.append(f"{path.name}: no name, no plugins or a plugin without type")
    raise CniError("no valid CNI configuration on the node" + "".join(f"; {r}" for r in reasons))


class Chain:
    """Executes a node's plugins."""

    def __init__(self, runtime: Runtime, node: Node) -> None:
        self._runtime = runtime
        self._node = node
        # The node's view first, then the kubelet's: its /run is covered on the node.
        self._folders = [
            (node.layout.root / "opt/cni/bin", Path(CNI_BIN_ON_NODE)),
            (VENV_BIN, VENV_BIN),
            (DEBIAN_CNI, DEBIAN_CNI),
        ]

    async def add(self, config: ConfigList, sandbox: Sandbox) -> dict[str, Any]:
        """Attach the pod: the chain's final result. Raises CniError; the caller then deletes."""
        result: dict[str, Any] | None = None
        for plugin in config.plugins:
            result = await self._execute("ADD", config, plugin, sandbox, result)
        return result or {}

    async def delete(
        self, config: ConfigList, sandbox: Sandbox, result: dict[str, Any] | None
    ) -> None:
        """Detach the pod, last plugin first; all of them get their turn. Raises CniError."""
        failed: CniError | None = None
        for plugin in reversed(config.plugins):
            try:
                await self._execute("DEL", config, plugin, sandbox, result)
            except CniError as error:
                failed = failed or error
        if failed:
            raise failed

    async def _execute(
        self,
        command: str,
        config: ConfigList,
        plugin: dict[str, Any],
        sandbox: Sandbox,
        result: dict[str, Any] | None,
    ) -> dict[str, Any] | None:
        kind = plugin["type"]
        program = self._find(kind)
        done = await self._runtime.run(
            ProcessSpec(
                argv=[str(program)],
                env={
                    "CNI_COMMAND": command,
                    "CNI_CONTAINERID": sandbox.container_id,
                    "CNI_NETNS": sandbox.process.namespace("net"),
                    "CNI_IFNAME": INTERFACE,
                    "CNI_ARGS": sandbox.arguments(),
                    "CNI_PATH": ":".join(str(seen) for _, seen in self._folders),
                    "PATH": CONTAINER_PATH,
                    "LANG": os.environ.get("LANG", "C.UTF-8"),
                },
                join=self._node.enter_fully(),
            ),
            plugin_input(config, plugin, sandbox, result),
        )
        if done.code != 0:
            raise CniError(f"plugin {kind} failed ({command}): {_reason(done.out, done.err)}")
        if command == "DEL" or not done.out.strip():
            return None
        try:
            return msgspec.json.decode(done.out, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise CniError(f"plugin {kind} answered something else than JSON: {error}") from error

    def _find(self, kind: str) -> Path:
        for real, seen in self._folders:
            if os.access(real / kind, os.X_OK):
                return seen / kind
        folders = ", ".join(str(seen) for _, seen in self._folders)
        raise CniError(f"CNI plugin {kind} is in none of {folders}")


def plugin_input(
    config: ConfigList,
    plugin: dict[str, Any],
    sandbox: Sandbox,
    result: dict[str, Any] | None,
) -> bytes:
    """Standard input of one plugin (CNI specification, "Deriving execution configuration")."""
    derived = {key: value for key, value in plugin.items() if key != "capabilities"}
    derived |= {"cniVersion": config.cniVersion, "name": config.name}
    if result is not None:
        derived["prevResult"] = result
    wanted: dict[str, bool] = plugin.get("capabilities", {})
    if wanted.get("portMappings") and sandbox.port_mappings:
        derived["runtimeConfig"] = {"portMappings": sandbox.port_mappings}
    return msgspec.json.encode(derived)


def addresses(result: dict[str, Any]) -> Sequence[str]:
    """The pod's addresses in a final result, without prefix length."""
    return [str(entry["address"]).split("/")[0] for entry in result.get("ips", [])]


def _reason(out: bytes, err: bytes) -> str:
    """A CNI error object's message; the last line of stderr where the plugin wrote none."""
    try:
        answer = msgspec.json.decode(out, type=dict[str, Any])
        details = answer.get("details")
        return f"{answer['msg']}; {details}" if details else str(answer["msg"])
    except (msgspec.MsgspecError, KeyError):
        lines = (err or out).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"
