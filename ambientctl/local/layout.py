"""Addresses, names and folders of the local mesh: the one place that lays them out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import msgspec

FABRIC_BRIDGE: Final = "fabric"
FABRIC_ADDRESS: Final = "172.30.0.1"
"""The supervisor's end of the link between the nodes; API server and DNS listen here."""
FABRIC_PREFIX: Final = 24
FIRST_NODE_HOST: Final = 10
"""node-1 is 172.30.0.11."""
SERVICE_RANGE: Final = "10.96.0.0/16"
API_SERVICE_ADDRESS: Final = "10.96.0.1"
API_PORT: Final = 6443
DNS_SERVICE_ADDRESS: Final = "10.96.0.10"
DNS_PORT: Final = 53
CLUSTER_DOMAIN: Final = "cluster.local"
SYSTEM_NAMESPACE: Final = "istio-system"
MAX_NODES: Final = 20
"""Each node costs two daemons; more nodes than this say nothing new on one machine."""

RUN: Final = Path("/run/ambient")
"""Inside the mesh only: a private tmpfs covers /run there."""
BPF_FS: Final = "/sys/fs/bpf"
DEBIAN_CNI: Final = Path("/usr/lib/cni")
VENV_BIN: Final = Path(sys.prefix) / "bin"
PROJECT: Final = Path(__file__).resolve().parents[2]
MANIFESTS: Final = PROJECT / "manifests"

CONTAINER_PATH: Final = ":".join(
    [
        str(VENV_BIN),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
)
"""PATH of every container: the mesh's programs first."""


class NodeLayout(msgspec.Struct, frozen=True):
    """One node, by its number from 1."""

    number: int

    @property
    def name(self) -> str:
        """Kubernetes' name of the node."""
        return f"node-{self.number}"

    @property
    def link(self) -> str:
        """The node's device on the fabric bridge, where captures listen."""
        return f"fab-{self.number}"

    @property
    def address(self) -> str:
        """The node's address on the fabric."""
        return f"172.30.0.{FIRST_NODE_HOST + self.number}"

    @property
    def pod_range(self) -> str:
        """Addresses of the pods on this node."""
        return f"10.244.{self.number}.0/24"

    @property
    def root(self) -> Path:
        """What pods see of the node through hostPath volumes, below this folder."""
        return RUN / "nodes" / self.name

    @property
    def cni_folder(self) -> Path:
        """The node's /etc/cni/net.d."""
        return self.root / "etc/cni/net.d"

    @property
    def process_list(self) -> Path:
        """The node's /run/node-proc: its pods' processes, in the manner of /proc."""
        return self.root / "run/node-proc"

    def host_path(self, path: str) -> Path:
        """Where the node's ``path`` really is; /sys and /dev are the machine's own.

        Its /proc is the list of the node's processes: the machine's has those of all nodes, and no
        control groups that would name their pods. Its BPF file system is its own too, since the
        agents of two nodes must not share one.
        """
        clean = os.path.normpath("/" + path.lstrip("/"))  # "//" would stay as it is
        if clean == "/proc":
            return self.process_list
        top = clean.split("/", 2)[1]
        if clean == BPF_FS or clean.startswith(BPF_FS + "/"):
            return self.root / clean.lstrip("/")
        if top in ("proc", "sys", "dev"):
            return Path(clean)
        if clean == "/var/run" or clean.startswith("/var/run/"):
            clean = clean.removeprefix("/var")
        return self.root / clean.lstrip("/")


class MeshConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What ``up`` tells the mesh's first process, as JSON."""

    name: str
    folder: str
    """The state folder, absolute."""
    nodes: int
    sample: str
    bare: bool = False
    """A cluster without the mesh."""
    redirection: str = "nftables"
    """``REDIRECTION_BACKEND`` of the node agents."""
    rootless: bool
    api_port: int
    """On the host's loopback."""
    api_fd: int
    """The listening socket for that port, made in the host's network namespace."""
    report_fd: int
    """A pipe to the waiting ``up``: JSON lines, see supervisor.Report."""

    def node_layouts(self) -> list[NodeLayout]:
        """The nodes, in order."""
        return [NodeLayout(number) for number in range(1, self.nodes + 1)]


def state_home() -> Path:
    """Where meshes keep their state folders (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(base) / "ambient-mesh"
