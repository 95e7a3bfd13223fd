"""Where distributions keep the container runtime's CNI folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

AUTO: Final = "auto"
"""Setting value: find the folder by the table below."""


class Platform(NamedTuple):
    """A distribution, known by a path that only it has; folders are the node's."""

    name: str
    mark: str
    net_dir: str
    bin_dir: str


# In this order: what is more particular comes first. Sources: the distributions' manuals on CNI,
# and the values that Istio's charts have for them (istio manifests/charts/istio-cni, profiles).
PLATFORMS: Final = (
    Platform(
        "k3s",
        "/var/lib/rancher/k3s",
        "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        "/var/lib/rancher/k3s/data/cni",
    ),
    Platform(
        "k3s (older)",
        "/var/lib/rancher/k3s/data/current",
        "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        "/var/lib/rancher/k3s/data/current/bin",
    ),
    Platform(
        "microk8s",
        "/var/snap/microk8s/current",
        "/var/snap/microk8s/current/args/cni-network",
        "/var/snap/microk8s/current/opt/cni/bin",
    ),
    Platform("GKE", "/home/kubernetes/bin", "/etc/cni/net.d", "/home/kubernetes/bin"),
    Platform("OpenShift", "/etc/cni/multus/net.d", "/etc/cni/multus/net.d", "/var/lib/cni/bin"),
    Platform("any", "/etc/cni/net.d", "/etc/cni/net.d", "/opt/cni/bin"),
)


def detect(exists: Callable[[str], bool]) -> Platform | None:
    """The platform whose mark and folders exist on the node; None where none fits."""
    return next(
        (
            each
            for each in PLATFORMS
            if exists(each.mark) and exists(each.net_dir) and exists(each.bin_dir)
        ),
        None,
    )
