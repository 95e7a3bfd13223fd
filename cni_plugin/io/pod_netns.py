"""Which network namespace a pod has: by the plugin's record, else by the node's processes."""

from __future__ import annotations

from ipaddress import ip_address

from ambient.api.address import IPAddress, canonical
from ambient.kube.core.objects import Pod
from ambient.net.io.netns import Netns
from cni_plugin.io import discover, guest_files, records
from cni_plugin.io.guest_files import is_guest
from cni_plugin.settings import Settings


def recorded(settings: Settings, pod: Pod) -> Netns | None:
    """By the plugin's record, if the path still leads to the same namespace."""
    metadata, run_dir = pod.metadata, settings.cni_agent_run_dir
    if is_guest(metadata.uid):
        guest = guest_files.read(run_dir, metadata.uid)
        return None if guest is None else _open(guest.netns, (guest.device, guest.inode))
    own = records.read(run_dir, metadata.uid)
    for record in (own,) if own is not None else records.read_all(run_dir):
        by_name = (record.namespace, record.name) == (metadata.namespace, metadata.name)
        if record.uid != metadata.uid and (record.uid or not by_name):
            continue
        netns = _open(record.netns, (record.device, record.inode))
        if netns is not None:
            return netns
    return None


def _open(path: str, key: tuple[int, int]) -> Netns | None:
    """The namespace, unless the path leads to another one by now."""
    try:
        netns = Netns.open(path)
    except OSError:
        return None
    if netns.key == key:
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
