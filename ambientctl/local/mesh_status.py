"""What ``ambientctl local status`` tells; the shape of ``-o json`` is stable."""

from __future__ import annotations

import msgspec


class NodeStatus(msgspec.Struct, frozen=True):
    """One node."""

    name: str
    address: str
    pod_range: str
    ready: bool
    cni_chain: list[str]
    """Types of the plugins that attach the next pod, in order."""
    redirection: str
    """``ebpf`` where its programs are in place, else ``nftables``."""
    ebpf_pods: int
    """Pods of the mesh that eBPF redirects; the others have nftables."""


class PodStatus(msgspec.Struct, frozen=True):
    """One pod; ``containers`` maps a container to its process id inside the mesh."""

    namespace: str
    name: str
    node: str
    ip: str
    phase: str
    ready: int
    total: int
    restarts: int
    enrolled: bool
    """Its traffic goes through the mesh (annotation ambient.istio.io/redirection)."""
    reason: str
    """Why it is not ready; empty when it is."""
    containers: dict[str, int]


class MeshStatus(msgspec.Struct, frozen=True):
    """The whole mesh."""

    name: str
    ready: bool
    """The start is complete: nodes, mesh components and sample were ready."""
    rootless: bool
    pid: int
    """Of the first process, as the host numbers it."""
    kubeconfig: str
    logs: str
    nodes: list[NodeStatus]
    pods: list[PodStatus]
