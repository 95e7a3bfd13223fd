"""Which network namespace a pod has: by the plugin's record, else by the node's processes."""

from __future__ import annotations

from ipaddress import ip_address

from ambient.api.address import IPAddress, canonical
from ambient.kube.core.objects import Pod
from ambient.net.io.netns import Netns
from cni_plugin.io import discover, records
from cni_plugin.settings import Settings


def recorded(settings: Settings, pod: Pod) -> Netns | None:
    """By the plugin's record, if the path still leads to the same namespace."""
    metadata = pod.metadata
    for record in records.read_all(settings.cni_agent_run_dir):
        by_name = (record.namespace, record.name) == (metadata.namespace, metadata.name)
        if record.uid != metadata.uid and (record.uid or not by_name):
            continue
        try:
            netns = Netns.open(record.netns)
        except OSError:
            continue
        if netns.key == (record.device, record.inode):
            return netns
        netns.close()
    return None


def discovered(settings: Settings, pod: Pod) -> Netns | None:
    """By the pod's processes and addresses."""
    ips = frozenset(canonical(ip_address(ip)) for ip in pod.ips)
    return discover.find(settings.proc_dir, {pod.metadata.uid: ips}).get(pod.metadata.uid)


def belongs(netns: Netns, ips: frozenset[IPAddress]) -> bool:
    """Whether the namespace has one of the pod's addresses; true while those are not known."""
    return not ips or bool(discover.addresses(netns) & ips)
