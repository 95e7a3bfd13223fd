"""Services and ServiceEntries: what their ports say, and who else says it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from ambient.api.service import AppProtocol
from ambient.kube.core import objects
from istiod_lite.core.analysis import codes
from istiod_lite.core.analysis.corpus import Corpus, Item, texts
from istiod_lite.core.analysis.finding import Finding
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.inputs import ROUTE_KINDS
from istiod_lite.core.services import app_protocol

NOT_HTTP: Final = (AppProtocol.TCP, AppProtocol.TLS)
L7_ROUTES: Final = ("HTTPRoute", "GRPCRoute")


def ports(corpus: Corpus) -> Iterator[Finding]:
    """Ports whose protocol is not declared, or declared so that L7 rules do not apply."""
    asked = _l7_asked(corpus)
    for service in corpus.index.inputs.services.values():
        ref = _ref(service.metadata.namespace, service.metadata.name)
        item = corpus.at(ref)
        if item is None or service.spec.type == "ExternalName":
            continue
        bound = corpus.index.bindings.get(ref).accepted
        fields = item.spec["ports"].items()
        for port, field in zip(service.spec.ports or (), fields, strict=False):
            protocol = app_protocol(port)
            if protocol in NOT_HTTP and (by := asked.get(ref)):
                text = (
                    f"{field.path}: port {port.port} is declared as {protocol.name}, "
                    f"so that {by} does not apply to it"
                )
                remedy = "name it http-..., or set appProtocol"
                yield item.says(codes.HTTP_HIDDEN, text, remedy, field=field.path)
            elif bound and protocol is AppProtocol.UNKNOWN and port.protocol in ("TCP", ""):
                said = f"name {port.name!r}" if port.name else "no name"
                text = (
                    f"{field.path}: port {port.port} has {said}: its waypoint guesses the protocol"
                )
                remedy = "name it http-..., grpc-... or tcp-..., or set appProtocol"
                yield item.says(codes.PORT_NAME, text, remedy, field=field.path)


def _l7_asked(corpus: Corpus) -> dict[ObjectRef, str]:
    """Services for which somebody wrote an L7 route or policy, and who."""
    found: dict[ObjectRef, str] = {}
    for kind in ROUTE_KINDS:
        for item in corpus.items(kind):
            for parent in item.spec["parentRefs"].items() if kind in L7_ROUTES else ():
                where = parent["namespace"].text() or item.namespace
                if parent["kind"].value == "Service":
                    found[_ref(where, parent["name"].text())] = str(item.ref)
    for item in corpus.items("VirtualService"):
        if item.spec["http"].given:
            for name in item.spec["hosts"].texts():
                host = corpus.find_host(name, item.namespace)
                if host is not None:
                    found[host.ref] = str(item.ref)
    for item in corpus.items("AuthorizationPolicy"):
        l7 = any(
            operation["operation"][name].given
            for rule in item.spec["rules"].items()
            for operation in rule["to"].items()
            for name in ("hosts", "methods", "paths", "notHosts", "notMethods", "notPaths")
        )
        for target in item.spec["targetRefs"].items() if l7 else ():
            if target["kind"].value == "Service":
                found[_ref(item.namespace, target["name"].text())] = str(item.ref)
    return found


def _ref(namespace: str, name: str) -> ObjectRef:
    return ObjectRef("Service", ObjectKey(namespace, name))


def external_names(corpus: Corpus) -> Iterator[Finding]:
    """ExternalName Services with ports that are declared as TCP."""
    for item in corpus.items("Service"):
        if item.spec["type"].value != "ExternalName":
            continue
        for port in item.spec["ports"].items():
            if port["name"].text().partition("-")[0] in ("", "tcp"):
                text = (
                    f"{port.path}: an ExternalName with a port that is named as TCP or not at all"
                )
                remedy = "name the port http-..., or use a ServiceEntry"
                yield item.says(codes.EXTERNAL_NAME_PORT, text, remedy, field=port.path)


def target_ports(corpus: Corpus) -> Iterator[Finding]:
    """Named target ports that no pod behind the Service has."""
    for item in corpus.items("Service"):
        selector = texts(item.spec["selector"])
        if not selector:
            continue
        behind = corpus.selected(item.namespace, selector)
        if not behind:
            continue
        for port in item.spec["ports"].items():
            name = port["targetPort"].value
            if isinstance(name, str) and not any(name in one.ports for one in behind):
                there = sorted({known for one in behind for known in one.ports})
                text = f"{port.path}.targetPort: no pod behind it has a port named {name!r}"
                remedy = (
                    f"their ports: {', '.join(there)}" if there else "name the container's port"
                )
                field = f"{port.path}.targetPort"
                yield item.says(codes.TARGET_PORT, text, remedy, field=field)


def shared_pods(corpus: Corpus) -> Iterator[Finding]:
    """Services of the same workload that disagree about a port."""
    for workload in corpus.workloads:
        item = corpus.at(workload.ref)
        if workload.owned or item is None:
            continue
        protocols: defaultdict[int, dict[str, str]] = defaultdict(dict)
        fronts: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for service in corpus.index.inputs.services.by("namespace", workload.namespace):
            selector = service.spec.selector
            if not selector or not objects.selects(selector, workload.labels):
                continue
            for port in service.spec.ports or ():
                protocols[port.port][service.metadata.name] = app_protocol(port).name
                target = str(port.target_port or port.port)
                fronts[target][port.port] = service.metadata.name
        yield from _disagreements(item, protocols, fronts)


def _disagreements(
    item: Item, protocols: dict[int, dict[str, str]], fronts: dict[str, dict[int, str]]
) -> Iterator[Finding]:
    for number, told in sorted(protocols.items()):
        if len(set(told.values())) > 1:
            shown = ", ".join(f"{name}: {protocol}" for name, protocol in sorted(told.items()))
            text = f"its Services declare different protocols for port {number} ({shown})"
            remedy = "give the port the same name or appProtocol in all of them"
            yield item.says(codes.SERVICES_DISAGREE, text, remedy)
    for target, ports_ in sorted(fronts.items()):
        if len(ports_) > 1 and len(set(ports_.values())) > 1:
            shown = ", ".join(f"{name}:{port}" for port, name in sorted(ports_.items()))
            text = f"its Services reach target port {target} by different ports ({shown})"
            yield item.says(codes.CONFLICTING_PORTS, text, "use the same port in all of them")


def service_entries(corpus: Corpus) -> Iterator[Finding]:
    """Hosts for which others speak, ports that cannot be told apart, conflicting protocols."""
    declared: dict[tuple[str, int], tuple[str, ObjectRef]] = {}
    for item in corpus.items("ServiceEntry"):
        spec = item.spec
        yield from _addresses(corpus, item)
        selector = texts(spec["workloadSelector"]["labels"])
        if selector and not corpus.selected(item.namespace, selector):
            shown = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
            text = f"selects nothing: no workload in {item.namespace} has {shown}"
            field = "spec.workloadSelector"
            yield item.says(codes.SELECTS_NOTHING, text, "correct the labels", field=field)
        for host in spec["hosts"].texts():
            if not corpus.index.world.hosts.wins(item.ref, host):
                yield _shadowed(corpus, item, host)
            for port in spec["ports"].items():
                number, protocol = port["number"].value, port["protocol"].text().upper() or "TCP"
                if not isinstance(number, int):
                    continue
                before = declared.setdefault((host, number), (protocol, item.ref))
                if before[0] != protocol:
                    other = f"{before[0]} in {before[1]}"
                    text = f"{port.path}: {host}:{number} is {protocol} here and {other}"
                    remedy = "use the same protocol in both"
                    yield item.says(codes.ENTRY_PROTOCOLS, text, remedy, field=port.path)


def _shadowed(corpus: Corpus, item: Item, host: str) -> Finding:
    winner = corpus.index.world.hosts.winner(item.namespace, host)
    winner = winner or corpus.index.world.hosts.canonical(host)
    by = f": {winner} speaks for it" if winner is not None else ""
    text = f"spec.hosts: {host} is not this entry's{by}"
    return item.says(codes.HOST_SHADOWED, text, "remove the host here or there", field="spec.hosts")


def _addresses(corpus: Corpus, item: Item) -> Iterator[Finding]:
    """TCP without an address: a connection can only be told by its destination."""
    spec = item.spec
    if spec["addresses"].given or item.root["status"]["addresses"].given:
        return
    allocated = item.labels.get("networking.istio.io/enable-autoallocate-ip") != "false"
    wild = any(host.startswith("*") for host in spec["hosts"].texts())
    resolution = spec["resolution"].text() or "NONE"
    if corpus.facts.allocate_addresses and allocated and resolution != "NONE" and not wild:
        return
    for port in spec["ports"].items():
        if port["protocol"].text().upper() in ("", "TCP", "TLS", "MONGO", "REDIS", "MYSQL"):
            text = f"{port.path}: without addresses nothing tells its connections from others"
            remedy = "give spec.addresses, or let addresses be allocated (resolution DNS or STATIC)"
            yield item.says(codes.ADDRESSES_REQUIRED, text, remedy, field=port.path)
            return
