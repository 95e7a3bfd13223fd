"""Ports, marks and well-known addresses, each with its source."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

OUTBOUND_PORT: Final = 15001
"""Captured outbound connections (Istio: ztunnel outbound)."""
PLAINTEXT_PORT: Final = 15006
"""Captured inbound connections that are not HBONE (Istio: ztunnel inbound plaintext)."""
HBONE_PORT: Final = 15008
"""HBONE, addressed directly (Istio: HBONE port)."""
DNS_PORT: Final = 15053
"""Captured DNS (Istio: ztunnel DNS proxy)."""
SOCKS_PORT: Final = 15080
"""SOCKS5, on the pod's localhost only, where it is switched on (Istio: socks5)."""
ADMIN_PORT: Final = 15000
"""Admin endpoint, on localhost only."""
STATS_PORT: Final = 15020
"""Prometheus metrics of the data plane."""
READINESS_PORT: Final = 15021
"""``/healthz/ready`` of the data plane."""

XDS_PLAINTEXT_PORT: Final = 15010
XDS_PORT: Final = 15012
"""xDS and CA over TLS (Istio: istiod)."""
CONTROL_HTTP_PORT: Final = 8080
"""``/ready`` and ``/debug`` of istiod_lite."""
CONTROL_METRICS_PORT: Final = 15014
WEBHOOK_PORT: Final = 15017
"""``/validate`` (Istio: istiod webhooks)."""

PROXY_MARK: Final = 0x539
"""SO_MARK of every socket that ztunnel opens inside a pod (Istio: 1337)."""
REPLY_MARK: Final = 0x111
"""Connection mark of flows that ztunnel dialled into the pod (Istio: 0x111)."""
MARK_MASK: Final = 0xFFF
FOREIGN_SOURCE_BIT: Final = 0x1000
"""Beside ``PROXY_MARK``: the tunnel speaks to the application from its client's address."""
assert PROXY_MARK & ~MARK_MASK == 0
assert FOREIGN_SOURCE_BIT & MARK_MASK == 0
assert REPLY_MARK & ~MARK_MASK == 0

PROBE_SOURCE_V4: Final = IPv4Address("169.254.7.127")
"""Source that the node gives to the kubelet's health probes (Istio: HOST_PROBE_SNAT_IP)."""
PROBE_SOURCE_V6: Final = IPv6Address("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")

ILLEGAL_DESTINATIONS: Final = frozenset({OUTBOUND_PORT, PLAINTEXT_PORT, HBONE_PORT})
"""A captured connection to one of these would loop through ourselves."""
