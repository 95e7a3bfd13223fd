"""Who else claims the CNI folder: known by what they leave in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from cni_plugin.core import conflist

CILIUM_BACKUP: Final = conflist.CILIUM_BACKUP
_KEEP_AHEAD: Final = "set ISTIO_OWNED_CNI_CONFIG=true, so that the chain has a file of its own"


class Rival(NamedTuple):
    """A program that takes back what we write, and what ends the quarrel."""

    name: str
    hint: str


CILIUM: Final = Rival(
    "Cilium", "helm upgrade cilium ... --reuse-values --set cni.exclusive=false (then restart it)"
)
UNKNOWN: Final = Rival("another program", "it owns the CNI configuration; " + _KEEP_AHEAD)
_BY_TYPE: Final = {
    "cilium-cni": CILIUM,
    "multus": Rival("Multus", "it makes its file from the network plugin's; " + _KEEP_AHEAD),
    "multus-shim": Rival("Multus", "it makes its file from the network plugin's; " + _KEEP_AHEAD),
    "calico": Rival("Calico", "its node pod writes the file; " + _KEEP_AHEAD),
    "aws-cni": Rival("the AWS VPC CNI", "its node pod writes the file; " + _KEEP_AHEAD),
    "ovn-k8s-cni-overlay": Rival("OVN-Kubernetes", "it writes the file; " + _KEEP_AHEAD),
}


def put_aside(files: Mapping[str, bytes]) -> list[str]:
    """Files of ours that Cilium has renamed, since it wants the folder for itself."""
    ours = conflist.PLUGIN_TYPE.encode()
    return sorted(name for name in files if name.endswith(CILIUM_BACKUP) and ours in files[name])


def of_plugins(types: Iterable[str]) -> Rival:
    """Who wrote the chain, by its plugins."""
    return next((_BY_TYPE[kind] for kind in types if kind in _BY_TYPE), UNKNOWN)


def find(files: Mapping[str, bytes]) -> Rival:
    """Who it is that undoes our changes of these files."""
    if put_aside(files):
        return CILIUM
    try:
        _, active = conflist.active(files)
    except conflist.NoConflistError:
        return UNKNOWN
    return of_plugins(str(plugin["type"]) for plugin in active["plugins"])
