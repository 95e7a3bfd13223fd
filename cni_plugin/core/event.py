"""The plugin's event as the agent reads it: ours, or that of Istio's plugin.

Istio's has ``Netns``, ``PodName``, ``PodNamespace`` and ``IPs`` of objects whose ``Address`` is
``{"IP": text, "Mask": base64}``. Ours is the pod's record.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ambient.api.address import parse_ip
from ambient.api.errors import MeshError


class Added(msgspec.Struct, frozen=True):
    """A pod sandbox has its network now."""

    name: str
    namespace: str
    netns: str
    """Path as the runtime sees it."""
    uid: str = ""
    ips: tuple[str, ...] = ()
    device: int = 0
    inode: int = 0
    """Zero where the plugin did not look."""


class BadEventError(MeshError):
    """The plugin's event cannot be read."""


class _IstioAddress(msgspec.Struct):
    ip: str = msgspec.field(default="", name="IP")


class _IstioIP(msgspec.Struct):
    address: _IstioAddress = msgspec.field(default_factory=_IstioAddress, name="Address")


class _IstioAdded(msgspec.Struct):
    netns: str = msgspec.field(name="Netns")
    name: str = msgspec.field(name="PodName")
    namespace: str = msgspec.field(name="PodNamespace")
    ips: list[_IstioIP] | None = msgspec.field(default=None, name="IPs")


def parse(raw: bytes) -> Added:
    """Read an event. Raises BadEventError that names what is wrong with it."""
    try:
        data: Any = msgspec.json.decode(raw)
        if isinstance(data, dict) and "PodName" in data:
            theirs = msgspec.convert(data, _IstioAdded)
            ips = tuple(ip.address.ip for ip in theirs.ips or ())
            added = Added(theirs.name, theirs.namespace, theirs.netns, ips=ips)
        else:
            added = msgspec.convert(data, Added)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadEventError(f"the plugin's event cannot be read: {error}") from None
    broken = next((ip for ip in added.ips if parse_ip(ip) is None), None)
    if broken is not None:
        raise BadEventError(f"the plugin's event has {broken!r} where an IP address belongs")
    if not added.name or not added.namespace or not added.netns:
        raise BadEventError("the plugin's event lacks the pod's name, namespace or netns")
    return added
