"""Where this waypoint stands: what objects are compared with when they are compiled."""

from __future__ import annotations

import msgspec

from ambient.api.service import NamespacedHostname
from ambient.api.spiffe import Identity


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A waypoint's own names. ``domain`` is the cluster's DNS suffix."""

    namespace: str
    gateway: str
    domain: str = "cluster.local"
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = "istio-system"
    gateway_class: str = "istio-waypoint"
    service_account: str = ""
    """Empty: named like the Gateway, as the control plane does unless it is told otherwise."""

    @property
    def identity(self) -> Identity:
        """Whom the waypoint's own peers see."""
        return Identity(self.trust_domain, self.namespace, self.service_account or self.gateway)

    @property
    def hostname(self) -> str:
        """The DNS name of the waypoint's own Service."""
        return self.service_host(self.gateway, self.namespace)

    def service_host(self, name: str, namespace: str) -> str:
        """The DNS name of a Kubernetes Service."""
        return f"{name}.{namespace}.svc.{self.domain}"

    def resolve(self, host: str, namespace: str) -> NamespacedHostname:
        """A host of a VirtualService or DestinationRule in ``namespace``.

        A name without dots is a Service beside the object; any other name is used as written.
        """
        if "." not in host:
            return NamespacedHostname(namespace, self.service_host(host, namespace))
        suffix = f".svc.{self.domain}"
        if host.endswith(suffix):
            owner = host.removesuffix(suffix).partition(".")[2]
            if owner and "." not in owner:
                return NamespacedHostname(owner, host)
        return NamespacedHostname(namespace, host)


def host_matches(pattern: str, hostname: str) -> bool:
    """Is ``hostname`` named by ``pattern``: exactly, ``*``, or ``*.suffix``?"""
    if pattern.startswith("*"):
        return hostname.endswith(pattern[1:]) and hostname != pattern[1:]
    return pattern == hostname


def exported(export_to: tuple[str, ...], owner: str, viewer: str) -> bool:
    """Does ``exportTo`` of an object in ``owner`` let namespace ``viewer`` see it?"""
    if not export_to or "*" in export_to:
        return True
    return viewer in export_to or ("." in export_to and owner == viewer)
