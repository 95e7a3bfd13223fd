"""What ``describe`` says of a pod, a service, a namespace: sections of lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ambient.api.errors import MeshError
from ambient.api.workload import TunnelProtocol, Workload
from ambient.kube.core import objects
from ambientctl.describe.policies import Row, in_order, of_service, of_workload, services_of
from ambientctl.describe.view import View
from ambientctl.pod_names import apps_of, near, pods_meant
from ambientctl.printing import taken
from cni_plugin.core.enrol import Exclusions, decide
from istiod_lite.core.analysis.corpus import EXCLUDED, Item, texts
from istiod_lite.core.analysis.finding import Finding
from istiod_lite.core.analysis.policy_conflicts import strict_at
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.inputs import ROUTE_KINDS
from istiod_lite.core.services import app_protocol
from istiod_lite.core.waypoints import WAYPOINT_CLASS, Binding, Reason

Lines = Iterator[str]


def pod(view: View, namespace: str, name: str) -> Lines:
    """A pod. Raises MeshError where there is none."""
    view.reading.require("Pod")
    items = {one.ref.key.name: one for one in view.corpus.items("Pod", namespace)}
    meant = pods_meant([one.obj for one in items.values()], name)
    if not items:
        view.require_namespace(namespace)
    if not meant:
        there = apps_of(one.obj for one in items.values())
        hint = near(name, there, "pods there") or "kubectl get pods -A"
        raise MeshError(f"there is no pod {namespace}/{name}", hint=hint)
    item = items[taken([one["metadata"]["name"] for one in meant])]
    ref, name = item.ref, item.ref.key.name
    yield f"Pod: {ref.key}"
    workload = view.workload(namespace, name)
    yield from _membership(view, item, workload)
    if workload is None:
        return
    services = services_of(view, workload)
    yield f"  Services: {', '.join(map(str, services)) or 'none'}"
    yield from _mode(view, ref, item)
    yield f"  Waypoint for its own address: {_bound(view.binding(ref))}"
    rows = [*of_workload(view, workload)]
    for service in services:
        yield f"  Waypoint for {service}: {_bound(view.binding(ObjectRef('Service', service)))}"
        rows += of_service(view, *service)
    yield from _policies(rows)
    concerned = {ref, *(ObjectRef("Service", one) for one in services), *_refs(rows)}
    yield from _problems(view.findings_about(concerned))


def _membership(view: View, item: Item, workload: Workload | None) -> Lines:
    typed = objects.decode(item.obj, objects.Pod)
    namespace = view.corpus.get("Namespace", "", item.namespace)
    decoded = objects.decode(namespace.obj, objects.Namespace) if namespace is not None else None
    reason = decide(typed, decoded, Exclusions(EXCLUDED, view.system))
    redirected = typed.metadata.annotation(objects.REDIRECTION_ANNOTATION) == "enabled"
    if reason.wanted and redirected:
        yield f"  In the mesh: yes, {reason}"
    elif reason.wanted:
        yield f"  In the mesh: NOT YET, although {reason}; its node has not captured it"
    else:
        yield f"  In the mesh: no, {reason}"
    yield f"  Node: {typed.spec.node_name or 'none'}   Addresses: {', '.join(typed.ips) or 'none'}"
    if workload is not None:
        spoken = workload.tunnel_protocol is TunnelProtocol.HBONE
        yield (
            f"  Identity: {workload.identity}"
            if spoken
            else (f"  Identity: none on the wire (service account {typed.service_account})")
        )
        yield f"  Reached by: {'HBONE' if spoken else 'plain TCP'}"


def _mode(view: View, ref: ObjectRef, item: Item) -> Lines:
    """The effective mode of PeerAuthentication, and ports that differ from it."""
    strict = strict_at(view.corpus, ref, 0)
    ports = sorted(
        {
            port["containerPort"].value
            for container in item.spec["containers"].items()
            for port in container["ports"].items()
            if isinstance(port["containerPort"].value, int)
        }
        | {
            int(number)
            for other in view.corpus.items("PeerAuthentication", ref.key.namespace)
            for number, _ in other.spec["portLevelMtls"].entries()
            if number.isdecimal()
            and texts(other.spec["selector"]["matchLabels"]).items() <= item.labels.items()
        }
    )
    apart = [port for port in ports if strict_at(view.corpus, ref, port) is not strict]
    words = {True: "STRICT, plain text is refused", False: "PERMISSIVE, plain text is let in"}
    text = words[strict]
    if apart:
        text += f"; except port {', '.join(map(str, apart))}"
    yield f"  Effective mTLS mode: {text}"


def _bound(binding: Binding) -> str:
    if binding.accepted:
        more = f" (label of the {'namespace' if binding.inherited else 'object itself'})"
        return f"{binding.gateway}{more}"
    if binding.inherited and binding.reason is Reason.OTHER_TRAFFIC:
        return f"none ({binding.gateway} of the namespace is for other traffic)"
    if binding.gateway is None:
        return "none (opted out)" if binding.reason is Reason.OPTED_OUT else "none"
    return f"none: asks for {binding.gateway}, {binding.reason.value}"


def _policies(rows: Iterable[Row]) -> Lines:
    ordered = in_order(rows)
    if not ordered:
        yield "  Policies: none, everybody may call"
        return
    yield "  Policies, in the order in which they are asked:"
    for row in ordered:
        rules = f"{row.rules} rule{'s' * (row.rules != 1)}"
        yield f"    {row.by}: {row.action} {row.policy} ({row.kind}, {rules})"


def _refs(rows: Iterable[Row]) -> Iterator[ObjectRef]:
    for row in rows:
        name, _, namespace = row.policy.rpartition(".")
        yield ObjectRef("AuthorizationPolicy", ObjectKey(namespace, name))


def _problems(found: list[Finding]) -> Lines:
    if found:
        yield "  Problems:"
    for one in found:
        yield f"    {one.severity.word} [{one.code.id}] {one.ref}: {one.message}"
        if one.remedy:
            yield f"      remedy: {one.remedy}"


def service(view: View, namespace: str, name: str) -> Lines:
    """A Service. Raises MeshError where there is none."""
    view.reading.require("Service")
    item = view.corpus.get("Service", namespace, name)
    if item is None:
        there = [one.ref.key.name for one in view.corpus.items("Service", namespace)]
        hint = near(name, there, "services there") or "kubectl get services -A"
        raise MeshError(f"there is no service {namespace}/{name}", hint=hint)
    typed = objects.decode(item.obj, objects.Service)
    known = view.service(namespace, name)
    yield f"Service: {item.ref.key} ({view.corpus.facts.hostname(item.ref.key)})"
    yield f"  Addresses: {', '.join(typed.virtual_ips) or 'none (headless)'}"
    for port in typed.spec.ports or ():
        protocol = app_protocol(port).name
        guess = " (not declared: its waypoint looks)" if protocol == "UNKNOWN" else ""
        target = f" -> {port.target_port}" if port.target_port else ""
        yield f"  Port: {port.name or '(no name)'} {port.port}{target}: {protocol}{guess}"
    yield f"  Waypoint: {_bound(view.binding(item.ref))}"
    pods_: list[Workload] = []
    if known is not None:
        pods_ = [one.workload for one in view.mesh.state.endpoints(known)]
        meshed = sum(one.tunnel_protocol is TunnelProtocol.HBONE for one in pods_)
        yield f"  Endpoints: {len(pods_)}, of which {meshed} in the mesh"
    routes = list(_routes(view, item))
    yield f"  Routes: {', '.join(map(str, routes)) or 'none'}"
    rows = [*of_service(view, namespace, name)]
    for one in pods_:
        rows += [row for row in of_workload(view, one) if row not in rows]
    yield from _policies(rows)
    yield from _problems(view.findings_about({item.ref, *routes, *_refs(rows)}))


def _routes(view: View, item: Item) -> Iterator[ObjectRef]:
    """Routes and rules that name the service."""
    for kind in ROUTE_KINDS:
        for route in view.corpus.items(kind):
            for parent in route.spec["parentRefs"].items():
                where = parent["namespace"].text() or route.namespace
                named = ObjectKey(where, parent["name"].text())
                if parent["kind"].value == "Service" and named == item.ref.key:
                    yield route.ref
    host = view.corpus.facts.hostname(item.ref.key)
    for kind, field in (("VirtualService", "hosts"), ("DestinationRule", "host")):
        for one in view.corpus.items(kind):
            value = one.spec[field]
            names = value.texts() if kind == "VirtualService" else [value.text()]
            if host in {view.corpus.full_name(name, one.namespace) for name in names}:
                yield one.ref


def namespace(view: View, name: str) -> Lines:
    """A namespace. Raises MeshError where there is none."""
    view.reading.require("Namespace")
    item = view.corpus.get("Namespace", "", name)
    if item is None:
        there = [one.ref.key.name for one in view.corpus.items("Namespace")]
        raise MeshError(f"there is no namespace {name}", hint=near(name, there, "there are"))
    labels = item.labels
    mode = labels.get(objects.AMBIENT_MODE_LABEL)
    yield f"Namespace: {name}"
    yield f"  In the mesh: {'yes' if mode == 'ambient' else 'no'} (label {mode or 'not set'})"
    pods_ = [one for one in view.mesh.workloads if one.namespace == name and one.addresses]
    meshed = sum(one.tunnel_protocol is TunnelProtocol.HBONE for one in pods_)
    yield f"  Workloads: {len(pods_)}, of which {meshed} in the mesh"
    strict = view.corpus.index.world.inherited_strict(name)
    yield f"  mTLS mode: {'STRICT' if strict else 'PERMISSIVE'}"
    wanted = labels.get(objects.USE_WAYPOINT_LABEL)
    where = labels.get(objects.USE_WAYPOINT_NAMESPACE_LABEL) or name
    yield f"  Waypoint of the namespace: {f'{where}/{wanted}' if wanted else 'none'}"
    for gateway in view.corpus.items("Gateway", name):
        if gateway.spec["gatewayClassName"].value == WAYPOINT_CLASS:
            bound = sorted(view.corpus.index.bindings.bound(gateway.ref.key))
            traffic = gateway.labels.get(objects.WAYPOINT_FOR_LABEL, "service")
            shown = ", ".join(map(str, bound[:8])) or "nobody"
            yield f"  Waypoint here: {gateway.ref.key.name} for {traffic}, used by {shown}"
    yield from _problems(
        [one for one in view.findings if name in (one.ref.key.namespace, one.ref.key.name)]
    )
