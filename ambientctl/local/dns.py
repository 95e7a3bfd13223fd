"""Cluster DNS of the local mesh: services and pods by name, nothing else (there is no upstream).

Names as in the Kubernetes "DNS-Based Service Discovery" specification 1.1.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

import trio
from dnslib import AAAA, CNAME, PTR, QTYPE, RCODE, RR, SOA, SRV, A, DNSError, DNSRecord

from ambient.kube.core.resources import ENDPOINT_SLICES, SERVICES, KubeObject
from ambientctl.local.kube_api import Objects
from ambientctl.local.layout import CLUSTER_DOMAIN, DNS_PORT

TTL_S: Final = 5  # CoreDNS' kubernetes plugin
MAX_UDP_BYTES: Final = 512
"""Without EDNS (RFC 1035, 2.3.4); a longer answer is truncated and asked again over TCP."""
TCP_IDLE_S: Final = 10.0
_ZONE: Final = CLUSTER_DOMAIN.split(".")


class Zone:
    """Answers questions from the newest Services and EndpointSlices."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def answer(self, query: bytes) -> DNSRecord | None:
        """The reply to a query; None for bytes that deserve none."""
        try:
            request = DNSRecord.parse(query)
        except (DNSError, ValueError, IndexError):
            return None
        if request.header.qr or not request.questions:
            return None
        reply = request.reply(ra=0, aa=1)
        name = str(request.q.qname).rstrip(".").lower()
        kind = QTYPE[request.q.qtype]
        records = self._records(name)
        if records is None:
            reply.header.rcode = RCODE.NXDOMAIN
            reply.add_auth(_authority())
            return reply
        for record_kind, data in records:
            if kind in (record_kind, "ANY") or record_kind == "CNAME":
                number = QTYPE.reverse[record_kind]
                reply.add_answer(RR(request.q.qname, number, rdata=data, ttl=TTL_S))
        if not reply.rr:
            reply.add_auth(_authority())
        return reply

    def _records(self, name: str) -> list[tuple[str, Any]] | None:
        """All records of a name; None where the name does not exist."""
        labels = name.split(".")
        if name.endswith(".in-addr.arpa"):
            return self._reverse(labels[:-2])
        if labels[-len(_ZONE) :] != _ZONE:
            return None
        labels = labels[: -len(_ZONE)]
        if len(labels) < 3 or labels[-1] not in ("svc", "pod"):
            # The zone itself and its branches exist without records of their own.
            return [] if labels in ([], ["svc"], ["pod"]) else None
        namespace = labels[-2]
        if labels[-1] == "pod":
            return _pod_address(labels[:-2])
        service = self._objects.get(SERVICES, namespace, labels[-3])
        if service is None:
            return None
        rest = labels[:-3]
        if not rest:
            return list(self._of_service(service))
        if len(rest) == 2 and rest[0].startswith("_") and rest[1].startswith("_"):
            return list(self._of_port(service, rest[0][1:], rest[1][1:])) or None
        if len(rest) == 1:
            return [
                ("A", A(address)) for host, address in self._hosts(service) if host == rest[0]
            ] or None
        return None

    def _of_service(self, service: KubeObject) -> Iterator[tuple[str, Any]]:
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            yield "CNAME", CNAME(spec["externalName"])
        elif spec.get("clusterIP") in (None, "", "None"):
            for address in sorted({address for _, address in self._hosts(service)}):
                yield "A", A(address)
        else:
            for address in spec.get("clusterIPs") or [spec["clusterIP"]]:
                yield ("AAAA", AAAA(address)) if ":" in address else ("A", A(address))

    def _of_port(self, service: KubeObject, name: str, protocol: str) -> Iterator[tuple[str, Any]]:
        target = f"{_service_name(service)}.{CLUSTER_DOMAIN}"
        for port in service["spec"].get("ports") or []:
            if port.get("name") == name and port.get("protocol", "TCP").lower() == protocol:
                yield "SRV", SRV(0, 100, port["port"], target)

    def _hosts(self, service: KubeObject) -> Iterator[tuple[str, str]]:
        """Host label and address of each ready endpoint."""
        for endpoint in self._endpoints(service):
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for address in endpoint.get("addresses") or []:
                if ":" not in address:
                    yield endpoint.get("hostname") or address.replace(".", "-"), address

    def _endpoints(self, service: KubeObject) -> Iterable[Mapping[str, Any]]:
        metadata = service["metadata"]
        for endpoint_slice in self._objects.all(ENDPOINT_SLICES).values():
            labels = endpoint_slice["metadata"].get("labels") or {}
            if (
                endpoint_slice["metadata"]["namespace"] == metadata["namespace"]
                and labels.get("kubernetes.io/service-name") == metadata["name"]
            ):
                yield from endpoint_slice.get("endpoints") or []

    def _reverse(self, labels: list[str]) -> list[tuple[str, Any]] | None:
        address = ".".join(reversed(labels))
        for service in self._objects.all(SERVICES).values():
            if address in (service["spec"].get("clusterIPs") or []):
                return [("PTR", PTR(f"{_service_name(service)}.{CLUSTER_DOMAIN}"))]
        return None


def _service_name(service: KubeObject) -> str:
    metadata = service["metadata"]
    return f"{metadata['name']}.{metadata['namespace']}.svc"


def _pod_address(labels: list[str]) -> list[tuple[str, Any]] | None:
    """``10-244-1-5.<namespace>.pod``: the address that the name spells."""
    try:
        return [("A", A(str(IPv4Address(labels[0].replace("-", ".")))))]
    except (AddressValueError, IndexError):
        return None


def _authority() -> RR:
    """The zone's SOA: it tells resolvers how long to remember that something is absent."""
    times = (1, 7200, 1800, 86400, TTL_S)
    data = SOA(f"ns.dns.{CLUSTER_DOMAIN}", f"hostmaster.{CLUSTER_DOMAIN}", times)
    return RR(CLUSTER_DOMAIN, QTYPE.SOA, rdata=data, ttl=TTL_S)


async def serve(zone: Zone, address: str) -> None:
    """Answer on UDP and TCP for ever."""
    udp = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await udp.bind((address, DNS_PORT))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_tcp, lambda s: _serve_stream(zone, s), DNS_PORT)
        while True:
            query, peer = await udp.recvfrom(4096)
            reply = zone.answer(query)
            if reply is None:
                continue
            data = reply.pack()
            if len(data) > MAX_UDP_BYTES:
                data = reply.truncate().pack()
            await udp.sendto(data, peer)


async def _serve_stream(zone: Zone, stream: trio.SocketStream) -> None:
    buffer = b""
    try:
        while True:
            with trio.fail_after(TCP_IDLE_S):
                chunk = await stream.receive_some(4096)
            if not chunk:
                return
            buffer += chunk
            while len(buffer) >= 2 and len(buffer) >= (size := int.from_bytes(buffer[:2])) + 2:
                reply = zone.answer(buffer[2 : size + 2])
                buffer = buffer[size + 2 :]
                if reply is None:
                    return
                data = reply.pack()
                await stream.send_all(len(data).to_bytes(2) + data)
    except (trio.TooSlowError, trio.BrokenResourceError):
        return
