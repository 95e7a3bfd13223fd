"""What the eBPF redirection's maps hold about a pod, as bytes; ``redirect.c`` has the same structs.

A pod is its network namespace, by the cookie that the kernel gives to each and never again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntFlag
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

from ambient.api.address import HostPort, IPAddress, canonical
from ambient.net.core.rules import Options

_COOKIE: Final = struct.Struct("=Q")
_POD: Final = struct.Struct("=I16s16s")
_PREFIX: Final = struct.Struct("=IQ16s")
_END: Final = struct.Struct("=Q16sII")
_ORIGINAL: Final = struct.Struct("=16sI")
_LISTENER: Final = struct.Struct("=QII")
_COOKIE_BITS: Final = 64
_NO_ADDRESS: Final = bytes(16)

Network = IPv4Network | IPv6Network


class Flag(IntFlag):
    """What is captured, and what else is done in the pod."""

    OUTBOUND = 1
    INBOUND = 2
    DNS = 4
    IPV6 = 8
    REPLIES = 16
    """Connections that the tunnel opens to the application get the mark for replies."""


ADMITTED: Final = Flag(0)
"""Only the tunnel's listeners are noted."""
DRAINING: Final = Flag.REPLIES
"""New connections go direct; what the tunnel still carries goes on."""


def enrolled(options: Options) -> Flag:
    """Everything that the options ask for."""
    flags = Flag.OUTBOUND | Flag.REPLIES
    for wanted, flag in (
        (options.inbound, Flag.INBOUND),
        (options.dns, Flag.DNS),
        (options.ipv6, Flag.IPV6),
    ):
        if wanted:
            flags |= flag
    return flags


class PodValue(NamedTuple):
    """A pod's entry: what is done in it, and the sources of its redirected connections."""

    flags: Flag
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None

    def encode(self) -> bytes:
        """For the map ``pods``."""
        return _POD.pack(self.flags, *(_packed(ip) for ip in (self.ipv4, self.ipv6)))

    @classmethod
    def decode(cls, data: bytes) -> PodValue:
        """As the map has it. Raises struct.error."""
        flags, four, six = _POD.unpack(data)
        ips = [canonical(ip_address(raw)) if raw != _NO_ADDRESS else None for raw in (four, six)]
        ipv4, ipv6 = ips
        assert not isinstance(ipv4, IPv6Address)
        assert not isinstance(ipv6, IPv4Address)
        return cls(Flag(flags), ipv4, ipv6)


def sources(
    addresses: Iterable[IPAddress], own: Iterable[Network]
) -> tuple[IPv4Address | None, IPv6Address | None]:
    """The addresses that redirected connections come from: the pod's, else one that it has."""
    single = (each.network_address for each in own if each.prefixlen == each.max_prefixlen)
    usable = [ip for ip in single if not (ip.is_loopback or ip.is_link_local)]
    found = [*sorted(addresses, key=str), *sorted(usable, key=str)]
    return (
        next((ip for ip in found if isinstance(ip, IPv4Address)), None),
        next((ip for ip in found if isinstance(ip, IPv6Address)), None),
    )


def pod_key(netns_cookie: int) -> bytes:
    """Of the map ``pods``."""
    return _COOKIE.pack(netns_cookie)


def cookie_of(key: bytes) -> int:
    """Whose entry of ``pods`` it is."""
    found: int = _COOKIE.unpack(key)[0]
    return found


def own_key(netns_cookie: int, network: Network) -> bytes:
    """Of the map ``own``: addresses that are the pod itself."""
    extra = 128 - network.max_prefixlen
    bits = _COOKIE_BITS + extra + network.prefixlen
    return _PREFIX.pack(bits, netns_cookie, _packed(network.network_address))


def owner_of(key: bytes) -> int:
    """Whose key of ``own`` it is."""
    found: int = _PREFIX.unpack(key)[1]
    return found


def listener_key(netns_cookie: int, port: int, slot: int) -> bytes:
    """Of the map ``listeners``."""
    return _LISTENER.pack(netns_cookie, port, slot)


def flow_key(netns_cookie: int, protocol: int, client: HostPort) -> bytes:
    """Of the map ``originals``: the application's end of a redirected flow.

    Raises ValueError where the host is no address.
    """
    ip = ip_address(client.host)
    return _END.pack(netns_cookie, _packed(ip), client.port, protocol)


def original(data: bytes) -> HostPort:
    """Where that flow was going. Raises struct.error."""
    packed, port = _ORIGINAL.unpack(data)
    return HostPort(str(canonical(ip_address(packed))), port)


def _packed(ip: IPAddress | None) -> bytes:
    """16 bytes; IPv4 mapped into IPv6."""
    if ip is None:
        return _NO_ADDRESS
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
