"""NetworkPolicies beside the mesh: everything between its pods goes to port 15008.

A policy that opens the application's ports only closes the mesh (pain 3); one that opens 15008 no
longer limits ports (pain 4); health probes come from the node's address of its own (pain 5).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any, Final

import msgspec

from ambient.api.ports import HBONE_PORT, PROBE_SOURCE_V4
from ambient.kube.core import objects
from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item
from istiod_lite.core.analysis.finding import Finding, Severity
from istiod_lite.core.analysis.workloads import Workload
from istiod_lite.core.validation.report import Field

INGRESS, EGRESS = "Ingress", "Egress"
PEERS: Final = {INGRESS: "from", EGRESS: "to"}
PROBE_PEER: Final = f"{PROBE_SOURCE_V4}/32"


class PortRange(msgspec.Struct, frozen=True):
    """Ports that a rule opens; both ends count."""

    first: int
    last: int

    def has(self, port: int) -> bool:
        """Whether a port is among them."""
        return self.first <= port <= self.last


class RuleOf(msgspec.Struct, frozen=True):
    """One ingress or egress rule; no ports means all of them."""

    item: Item
    field: Field
    ports: tuple[PortRange, ...] | None
    peers: Any

    def opens(self, port: int) -> bool:
        """Whether it lets TCP to this port through."""
        return self.ports is None or any(one.has(port) for one in self.ports)


def network_policies(corpus: Corpus) -> Iterator[Finding]:
    """Each policy that concerns captured workloads."""
    told: set[tuple[str, object, str]] = set()
    for workload in corpus.workloads:
        if not corpus.captured(workload) or workload.ref.kind == "WorkloadEntry":
            continue
        if workload.owned and workload.ref.kind == "ReplicaSet":
            continue
        for direction in (INGRESS, EGRESS):
            policies = list(_selecting(corpus, workload, direction))
            if not policies:
                continue
            rules = [rule for item in policies for rule in rules_of(item, direction, workload)]
            found = [*_closed(rules, direction, workload)]
            if direction == INGRESS:
                found += [*_hollow(rules), *_probes(policies, rules, workload)]
            for finding in found:
                key = (finding.code.id, finding.ref, finding.field)
                if key not in told:
                    told.add(key)
                    yield finding


def _selecting(corpus: Corpus, workload: Workload, direction: str) -> Iterator[Item]:
    for item in corpus.items("NetworkPolicy", workload.namespace):
        if item.group not in ("networking.k8s.io", ""):
            continue
        types = item.spec["policyTypes"].texts()
        applies = (
            direction in types if types else (direction == INGRESS or item.spec["egress"].present)
        )
        if applies and _selects(item.spec["podSelector"], workload.labels):
            yield item


def _selects(selector: Field, labels: dict[str, str]) -> bool:
    try:
        wanted = msgspec.convert(selector.value or {}, objects.LabelSelector)
    except msgspec.ValidationError:
        return False
    return objects.matches(wanted, labels)


def rules_of(item: Item, direction: str, workload: Workload) -> Iterator[RuleOf]:
    """The rules of a policy as they open this workload's ports."""
    for rule in item.spec[direction.lower()].items():
        listed = rule["ports"].items()
        ports = tuple(_ranges(listed, workload)) if listed else None
        yield RuleOf(item, rule, ports, rule[PEERS[direction]].value)


def _ranges(ports: list[Field], workload: Workload) -> Iterator[PortRange]:
    for port in ports:
        if (port["protocol"].text() or "TCP") != "TCP":
            continue
        value = port["port"].value
        if value is None:
            yield PortRange(1, 65535)
        number = workload.ports.get(value) if isinstance(value, str) else value
        if isinstance(number, int):
            end = port["endPort"].value
            yield PortRange(number, end if isinstance(end, int) else number)


def _closed(rules: list[RuleOf], direction: str, workload: Workload) -> Iterator[Finding]:
    """Peers that may reach some port, and not the one where the mesh listens."""
    open_for = [rule.peers for rule in rules if rule.opens(HBONE_PORT)]
    if any(not peers for peers in open_for):
        return
    for rule in rules:
        if rule.opens(HBONE_PORT) or rule.peers in open_for or not rule.ports:
            continue
        if direction == EGRESS and all(one.last == 53 for one in rule.ports):
            continue  # name look-ups do not go through the tunnel's port
        shown = ", ".join(_shown(one) for one in rule.ports)
        to = "to" if direction == INGRESS else "from"
        text = (
            f"{rule.field.path}: opens port {shown} {to} {workload.ref}, and traffic of the mesh "
            f"goes to port {HBONE_PORT}, which stays closed: connections time out"
        )
        remedy = f"add {{protocol: TCP, port: {HBONE_PORT}}} to the ports of this rule"
        yield rule.item.says(codes.BLOCKS_HBONE, text, remedy, field=rule.field.path)


def _shown(ports: PortRange) -> str:
    return str(ports.first) if ports.first == ports.last else f"{ports.first}-{ports.last}"


def _hollow(rules: list[RuleOf]) -> Iterator[Finding]:
    """Rules that open 15008 beside single ports: peers in the mesh reach every port."""
    for rule in rules:
        if rule.ports is None or not rule.opens(HBONE_PORT):
            continue
        others = [one for one in rule.ports if not one.has(HBONE_PORT)]
        if not others:
            continue
        shown = ", ".join(map(_shown, others))
        key = rule.item.ref.key
        text = (
            f"{rule.field.path}: limits peers to port {shown}, and peers of the mesh reach every "
            f"port through {HBONE_PORT}"
        )
        command = f"ambientctl authz from-network-policy {key.name} -n {key.namespace}"
        remedy = f"{command} prints the AuthorizationPolicy that limits them"
        yield rule.item.says(codes.PORTS_HOLLOW, text, remedy, field=rule.field.path)


def _probes(policies: list[Item], rules: list[RuleOf], workload: Workload) -> Iterator[Finding]:
    for probe in workload.probes:
        if any(rule.opens(probe.port) and _admits_probes(rule.peers) for rule in rules):
            continue
        text = (
            f"isolates {workload.ref}, whose probes come to port {probe.port} from "
            f"{PROBE_SOURCE_V4}: network plugins that do not take that for the node refuse them"
        )
        remedy = f"add an ingress rule from ipBlock {PROBE_PEER} to port {probe.port}"
        yield policies[0].says(codes.BLOCKS_PROBES, text, remedy, severity=Severity.WARNING)
        return


def _admits_probes(peers: Any) -> bool:
    if not peers:
        return True
    for peer in peers if isinstance(peers, list) else ():
        block = peer.get("ipBlock") if isinstance(peer, dict) else None
        if isinstance(block, dict) and _inside(block):
            return True
    return False


def _inside(block: dict[str, Any]) -> bool:
    try:
        inside = ip_address(str(PROBE_SOURCE_V4)) in ip_network(
            str(block.get("cidr")), strict=False
        )
        excepted = block.get("except") or []
        return inside and not any(
            ip_address(str(PROBE_SOURCE_V4)) in ip_network(str(one), strict=False)
            for one in excepted
        )
    except (ValueError, TypeError):
        return False
