"""Which service has which cluster address and node port."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address
from typing import Final

from ambientctl.local.apiserver.core.status import Object, bad_value, invalid
from ambientctl.local.apiserver.core.store import Change

NODE_PORTS: Final = range(30000, 32768)  # kube-apiserver --service-node-port-range


class ServiceAddresses:
    """The pool of one service range; learns what is used by following the store's changes."""

    def __init__(self, network: IPv4Network) -> None:
        self._network = network
        self._used: dict[str, str] = {}
        self._ports: dict[int, str] = {}
        # Kubernetes keeps the low end for addresses that people choose; so do we.
        self._next = min(16 + network.num_addresses // 16, 256) + 1

    def follow(self, change: Change) -> None:
        """Subscriber for changes of services."""
        for obj, used in ((change.old, False), (change.object, change.kind != "DELETED")):
            if obj is None:
                continue
            owner = obj["metadata"]["uid"]
            address = obj["spec"].get("clusterIP")
            ports = [
                port["nodePort"] for port in obj["spec"].get("ports") or () if "nodePort" in port
            ]
            if used:
                self._ports.update(dict.fromkeys(ports, owner))
                if address and address != "None":
                    self._used[address] = owner
            else:
                self._used.pop(address or "", None)
                for port in ports:
                    self._ports.pop(port, None)

    def assign(self, service: Object) -> None:
        """Give the service what it lacks; raises a 422 for an address it cannot have."""
        spec = service["spec"]
        if spec["type"] == "ExternalName":
            return
        address = spec.get("clusterIP") or self._free()
        if address != "None":
            self._check(service, address)
        spec["clusterIP"] = address
        spec["clusterIPs"] = [address]
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        if spec["type"] in {"NodePort", "LoadBalancer"}:
            self._assign_ports(service)

    def _free(self) -> str:
        """The next unused address; the first and the last of the range belong to nobody."""
        count = self._network.num_addresses
        for step in range(count):
            offset = (self._next + step) % count
            address = str(self._network[offset])
            if 0 < offset < count - 1 and address not in self._used:
                self._next = offset + 1
                return address
        raise self._refused("", "", f"failed to allocate IP: range {self._network} is full")

    def _check(self, service: Object, address: str) -> None:
        """Raise a 422 for an address outside the range or of another service."""
        name, uid = service["metadata"]["name"], service["metadata"].get("uid", "")
        try:
            inside = ip_address(address) in self._network
        except ValueError:
            why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            raise self._refused(name, address, why) from None
        if not inside:
            why = (
                "failed to allocate IP "
                f"{address}: the provided IP ({address}) is not in the valid range. "
                f"The range of valid IPs is {self._network}"
            )
            raise self._refused(name, address, why)
        if self._used.get(address, uid) != uid:
            raise self._refused(
                name, address, f"failed to allocate IP {address}: provided IP is already allocated"
            )

    def _assign_ports(self, service: Object) -> None:
        """Node ports for those ports that have none."""
        owner = service["metadata"].get("uid", "")
        taken = set(self._ports)
        for i, port in enumerate(service["spec"].get("ports") or ()):
            chosen = port.get("nodePort")
            if chosen and self._ports.get(chosen, owner) != owner:
                cause = bad_value(
                    f"spec.ports[{i}].nodePort", chosen, "provided port is already allocated"
                )
                raise invalid("", "Service", service["metadata"]["name"], [cause])
            if not chosen:
                chosen = next(free for free in NODE_PORTS if free not in taken)
                port["nodePort"] = chosen
            taken.add(chosen)

    def _refused(self, name: str, address: str, why: str) -> Exception:
        """The 422 as the real server words it."""
        cause = bad_value("spec.clusterIPs", [address] if address else None, why)
        return invalid("", "Service", name, [cause])
