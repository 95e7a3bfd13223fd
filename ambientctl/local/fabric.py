"""The wires of the local mesh: a bridge in the supervisor's network namespace, a node at each end.

::

    supervisor's namespace                       node-1's namespace
    fabric  172.30.0.1/24  ---- fab-1 == eth0  172.30.0.11/24, then the pods of 10.244.1.0/24
                           ---- fab-2 == eth0  172.30.0.12/24, then the pods of 10.244.2.0/24
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from ambient.api.errors import MeshError
from ambientctl.local import namespaces
from ambientctl.local.layout import (
    BPF_FS,
    CONTAINER_PATH,
    FABRIC_ADDRESS,
    FABRIC_BRIDGE,
    FABRIC_PREFIX,
    NodeLayout,
)
from ambientctl.local.runtime import Mount, Process, ProcessSpec, Runtime

ROUTER_SYSCTLS: Final = {
    "net/ipv4/ip_forward": "1",
    # Loose: answers may come back over another device than the one that asked (RFC 3704, 2.4).
    "net/ipv4/conf/all/rp_filter": "2",
    "net/ipv4/conf/default/rp_filter": "2",
}
_FABRIC_MAC: Final = "02:77:00:00:00:01"
"""A bridge without an address of its own takes the lowest of its ports', and changes it with them:
who has the old one in its ARP table then talks to nobody until that expires."""
CNI_BIN_ON_NODE: Final = "/run/opt-cni-bin"
"""The node's /opt/cni/bin: that path itself need not exist on this machine."""


class Node(msgspec.Struct, frozen=True):
    """A running node: its layout and the process that keeps its namespaces open."""

    layout: NodeLayout
    holder: Process

    def enter(self) -> list[str]:
        """Namespaces of the node itself, for its host-network pods."""
        return [self.holder.namespace("net"), self.holder.namespace("uts")]

    def enter_fully(self) -> list[str]:
        """The same with the node's file system, for what runs on the node and not in a pod."""
        return [*self.enter(), self.holder.namespace("mnt")]


async def build(runtime: Runtime, layouts: Sequence[NodeLayout]) -> list[Node]:
    """Make bridge and nodes. Raises MeshError with the failing tool's words."""
    _route_here()
    nodes = [Node(layout, await _start_node(runtime, layout)) for layout in layouts]
    await _ip(runtime, bridge_commands(nodes), [])
    for node in nodes:
        await _ip(runtime, node_commands(node.layout, layouts), node.enter())
    return nodes


def _route_here() -> None:
    for path, value in ROUTER_SYSCTLS.items():
        Path("/proc/sys", path).write_text(value)


async def _start_node(runtime: Runtime, layout: NodeLayout) -> Process:
    for folder in ("run/node-proc", "etc/cni/net.d", "opt/cni/bin", "var/lib/cni"):
        (layout.root / folder).mkdir(parents=True, exist_ok=True)
    bpf = layout.host_path(BPF_FS)
    bpf.mkdir(parents=True)
    with contextlib.suppress(OSError):  # the node agent says what follows from that
        namespaces.mount("bpf", str(bpf), "bpf")
    holder = await runtime.start(
        ProcessSpec(
            env={"PAUSE_NAME": layout.name},
            unshare=["net", "uts", "mnt"],
            mounts=[
                Mount(str(layout.root / "run"), "/run"),
                Mount(str(layout.root / "opt/cni/bin"), CNI_BIN_ON_NODE),
            ],
            sysctls=ROUTER_SYSCTLS,
            hostname=layout.name,
        )
    )
    # As on a machine, the first process leads into the node's own network namespace.
    (layout.process_list / "1").symlink_to(f"/proc/{holder.pid}")
    return holder


def bridge_commands(nodes: Sequence[Node]) -> list[str]:
    """Lines for ``ip -batch`` in the supervisor's namespace."""
    lines = [
        f"link add {FABRIC_BRIDGE} address {_FABRIC_MAC} type bridge",
        f"addr add {FABRIC_ADDRESS}/{FABRIC_PREFIX} dev {FABRIC_BRIDGE}",
        f"link set {FABRIC_BRIDGE} up",
    ]
    for node in nodes:
        link = node.layout.link
        lines += [
            f"link add {link} type veth peer name eth0 netns {node.holder.pid}",
            f"link set {link} master {FABRIC_BRIDGE} up",
            f"route add {node.layout.pod_range} via {node.layout.address}",
        ]
    return lines


def node_commands(node: NodeLayout, everybody: Sequence[NodeLayout]) -> list[str]:
    """Lines for ``ip -batch`` in a node's namespace."""
    return [
        f"addr add {node.address}/{FABRIC_PREFIX} dev eth0",
        "link set eth0 up",
        f"route add default via {FABRIC_ADDRESS}",
        *(
            f"route add {other.pod_range} via {other.address}"
            for other in everybody
            if other != node
        ),
    ]


async def _ip(runtime: Runtime, lines: Sequence[str], join: Sequence[str]) -> None:
    spec = ProcessSpec(argv=["ip", "-batch", "-"], env={"PATH": CONTAINER_PATH}, join=join)
    done = await runtime.run(spec, "\n".join(lines).encode())
    if done.code != 0:
        raise MeshError(f"cannot lay the mesh's network: {done.err.decode().strip()}")
