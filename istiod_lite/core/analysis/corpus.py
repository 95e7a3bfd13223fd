"""The objects under analysis: raw, as the index understands them, and the questions about both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any, Final, NamedTuple

from ambient.kube.core import objects
from ambient.kube.core.resources import KubeObject
from istiod_lite.core.analysis.finding import Code, Finding, Origin, Severity
from istiod_lite.core.analysis.workloads import Workload, read_workload
from istiod_lite.core.credentials import ABSENT
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.index import Index
from istiod_lite.core.statuses import Condition, ParentStatus
from istiod_lite.core.validation.report import Field, Report
from istiod_lite.core.waypoints import WAYPOINT_CLASS

EXCLUDED: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
"""Namespaces of Kubernetes itself, which are never captured by default."""


class Item(NamedTuple):
    """One object and where it comes from; ``origin`` None for the cluster."""

    ref: ObjectRef
    obj: KubeObject
    origin: Origin | None = None

    @property
    def root(self) -> Field:
        """The object for reading: what is malformed reads as empty."""
        return Field(self.obj, "", Report())

    @property
    def spec(self) -> Field:
        """Its spec."""
        return self.root["spec"]

    @property
    def labels(self) -> dict[str, str]:
        """Labels whose values are text."""
        return texts(self.root["metadata"]["labels"])

    @property
    def annotations(self) -> dict[str, str]:
        """Annotations whose values are text."""
        return texts(self.root["metadata"]["annotations"])

    @property
    def namespace(self) -> str:
        """Empty for cluster-wide kinds."""
        return self.ref.key.namespace

    @property
    def group(self) -> str:
        """API group, empty for the core API."""
        version = self.root["apiVersion"].text()
        return version.partition("/")[0] if "/" in version else ""

    def says(
        self,
        code: Code,
        message: str,
        remedy: str = "",
        *,
        field: str = "",
        severity: Severity | None = None,
    ) -> Finding:
        """A finding about this object."""
        return Finding(
            code=code,
            severity=code.severity if severity is None else severity,
            ref=self.ref,
            message=message,
            remedy=remedy,
            field=field,
            file=self.origin.file if self.origin is not None else "",
            line=self.origin.line(field) if self.origin is not None else 0,
        )


class Host(NamedTuple):
    """Something that can be called by name: a Service or a ServiceEntry's host."""

    name: str
    ref: ObjectRef
    ports: dict[int, str]
    """Number to name."""
    selector: dict[str, str] | None


class Corpus:
    """``listed`` are the kinds of which every object is here, as when a cluster was read."""

    def __init__(
        self,
        items: Iterable[Item],
        *,
        now: datetime,
        facts: MeshFacts | None = None,
        listed: Iterable[str] = (),
    ) -> None:
        self.now = now
        self.facts = facts or MeshFacts()
        self.listed = frozenset(listed)
        self._items: dict[ObjectRef, Item] = {item.ref: item for item in items}
        self._kinds: defaultdict[str, list[Item]] = defaultdict(list)
        for item in sorted(self._items.values(), key=lambda one: one.ref):
            self._kinds[item.ref.kind].append(item)

    # The objects.

    def all(self) -> Iterator[Item]:
        """Every object."""
        return iter(self._items.values())

    def items(self, kind: str, namespace: str | None = None) -> list[Item]:
        """All of a kind, of one namespace or of all, by namespace and name."""
        found = self._kinds.get(kind, [])
        return [one for one in found if namespace in (None, one.namespace)]

    def get(self, kind: str, namespace: str, name: str) -> Item | None:
        """One object."""
        return self._items.get(ObjectRef(kind, ObjectKey(namespace, name)))

    def at(self, ref: ObjectRef) -> Item | None:
        """The same by its reference."""
        return self._items.get(ref)

    def knows(self, kind: str) -> bool:
        """Whether an object of the kind that is not here can be said to be missing."""
        return kind in self.listed or bool(self._kinds.get(kind))

    # As the control plane sees them.

    @cached_property
    def index(self) -> Index:
        """The mesh that these objects make. A waypoint from a file counts as deployed."""
        found: defaultdict[str, list[KubeObject]] = defaultdict(list)
        for item in self.all():
            found[item.ref.kind].append(self._deployed(item))
        if "Namespace" not in self.listed:
            for name in {one.namespace for one in self.all()} - {""}:
                if self.get("Namespace", "", name) is None:
                    found["Namespace"].append({"metadata": {"name": name}})
        config = self.get("ConfigMap", self.facts.root_namespace, "istio")
        if config is not None:
            found["MeshConfig"] = [config.obj]
        index = Index(self.facts)
        index.load(found)
        self._stage_authorities(index)
        return index

    def _stage_authorities(self, index: Index) -> None:
        """The ConfigMaps that BackendTLSPolicies name; Secrets are for the control plane alone."""
        for ref in index.wanted_credentials:
            if ref.kind != "ConfigMap" or not self.knows(ref.kind):
                continue
            item = self.at(ref)
            data = item.root["data"].entries() if item is not None else ()
            held = {name: field.text().encode() for name, field in data}
            index.stage_credential(ref, held if item is not None else ABSENT)
        index.settle()

    def _deployed(self, item: Item) -> KubeObject:
        waypoint = item.spec["gatewayClassName"].value == WAYPOINT_CLASS
        if item.ref.kind != "Gateway" or not waypoint or item.origin is None:
            return item.obj
        if item.root["status"]["addresses"].given:
            return item.obj
        address = {"type": "Hostname", "value": self.facts.hostname(item.ref.key)}
        return {**item.obj, "status": {"addresses": [address]}}

    def conditions(self, item: Item) -> list[Condition]:
        """What the control plane says of an object in its status."""
        found: list[Condition] = []
        for one in self.index.wanted(item.ref):
            found += one.conditions if isinstance(one, ParentStatus) else [one]
        return found

    # Namespaces and workloads.

    def namespace_labels(self, name: str) -> dict[str, str] | None:
        """None where the namespace is not here."""
        item = self.get("Namespace", "", name)
        return item.labels if item is not None else None

    def has_namespace(self, name: str) -> bool:
        """False only where it is known that there is none of that name."""
        return not self.knows("Namespace") or self.get("Namespace", "", name) is not None

    @cached_property
    def workloads(self) -> list[Workload]:
        """Pods, what pods are made from, and WorkloadEntries."""
        found = (read_workload(item.ref, item.root) for item in self.all())
        return [one for one in found if one is not None]

    def selected(self, namespace: str, labels: dict[str, str] | None) -> list[Workload]:
        """Workloads of a namespace with these labels; of all namespaces for the root's."""
        return [
            one
            for one in self.workloads
            if one.namespace == namespace and objects.selects(labels, one.labels)
        ]

    def captured(self, workload: Workload) -> bool | None:
        """Whether the mesh takes a workload's traffic; None where its namespace is not here."""
        if workload.host_network or workload.namespace in EXCLUDED or workload.sidecar:
            return False
        own = workload.labels.get(objects.AMBIENT_MODE_LABEL)
        if own in ("ambient", "none"):
            return own == "ambient"
        labels = self.namespace_labels(workload.namespace)
        if labels is None:
            return None
        return labels.get(objects.AMBIENT_MODE_LABEL) == "ambient"

    # Hosts.

    @cached_property
    def acted_on(self) -> frozenset[str]:
        """``Kind/namespace/name`` of the L7 objects that some waypoint acts on."""
        names: set[str] = set()
        for item in self.items("Gateway"):
            names |= self.index.configs_for_waypoint(*item.ref.key).keys()
        return frozenset(names)

    @cached_property
    def hosts(self) -> dict[str, list[Host]]:
        """By full name."""
        found: defaultdict[str, list[Host]] = defaultdict(list)
        for item in self.items("Service"):
            name = self.facts.hostname(item.ref.key)
            selector = texts(item.spec["selector"]) or None
            found[name].append(Host(name, item.ref, _ports(item.spec, "port"), selector))
        for item in self.items("ServiceEntry"):
            selector = texts(item.spec["workloadSelector"]["labels"]) or None
            for name in item.spec["hosts"].texts():
                host = Host(name, item.ref, _ports(item.spec, "number"), selector)
                found[name].append(host)
        return dict(found)

    def full_name(self, host: str, namespace: str) -> str:
        """A host as waypoints complete it: ``name``, ``name.ns`` and ``name.ns.svc`` may be short
        for a Kubernetes Service; every other text is a name of its own.
        """
        domain = self.facts.cluster_domain
        short = (f"{host}.{namespace}.svc.{domain}", f"{host}.svc.{domain}", f"{host}.{domain}")
        dots = host.count(".")
        if dots == 0 and host != "*":
            return short[0]
        if 0 < dots < len(short) and host not in self.hosts and short[dots] in self.hosts:
            return short[dots]
        return host

    def find_host(self, host: str, namespace: str) -> Host | None:
        """Who answers to a name in a namespace; wildcards of ServiceEntries count."""
        full = self.full_name(host, namespace)
        if full in self.hosts:
            return self.hosts[full][0]
        for name, found in self.hosts.items():
            if name.startswith("*.") and full.endswith(name[1:]):
                return found[0]
            if full.startswith("*.") and name.endswith(full[1:]):
                return found[0]
        return None


def canonical(value: Any) -> str:
    """The same text for the same content, whatever its keys are: YAML knows others than text."""
    if isinstance(value, dict):
        pairs = sorted((str(key), canonical(one)) for key, one in value.items())
        return "{" + ",".join(f"{key!r}:{one}" for key, one in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(canonical, value)) + "]"
    return repr(value)


def texts(field: Field) -> dict[str, str]:
    """The entries of a mapping whose values are text."""
    return {name: one.value for name, one in field.entries() if isinstance(one.value, str)}


def _ports(spec: Field, key: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for port in spec["ports"].items():
        number: Any = port[key].value
        if isinstance(number, int):
            found[number] = port["name"].text()
    return found
