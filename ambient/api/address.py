"""Addresses as the mesh names them: an IP in a network, and a host with a port."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address


class NetworkAddress(NamedTuple):
    """An IP inside a named network; ``""`` is the default network."""

    network: str
    ip: IPAddress


class HostPort(NamedTuple):
    """A host (IP or name, IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> IPAddress | None:
        """The host as an address, or None where it is a name."""
        return parse_ip(self.host)


@lru_cache(4096)  # every connection names the same few addresses several times
def parse_ip(text: str) -> IPAddress | None:
    """Read an IP address; IPv4-mapped IPv6 becomes IPv4; None where ``text`` is none."""
    try:
        return canonical(ip_address(text))
    except ValueError:
        return None


def canonical(ip: IPAddress) -> IPAddress:
    """IPv4-mapped IPv6 addresses as the IPv4 address that they mean."""
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip


@lru_cache(4096)
def parse_authority(text: str) -> HostPort:
    """Read ``ip:port``, ``[v6]:port`` or ``name:port`` (RFC 9110, section 7.2; port mandatory).

    Raises ValueError that names what is wrong.
    """
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"authority {text!r} has no port")
    if not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) <= 65535:
        raise ValueError(f"authority {text!r} has a bad port")
    if host.startswith("[") and host.endswith("]"):
        inner = parse_ip(host[1:-1])
        if inner is None:
            raise ValueError(f"authority {text!r} has a bad IPv6 address")
        return HostPort(str(inner), int(port_text))
    if ":" in host:
        raise ValueError(f"authority {text!r} needs brackets around its IPv6 address")
    return HostPort(host, int(port_text))
