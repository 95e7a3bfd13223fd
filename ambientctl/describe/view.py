"""The mesh of a cluster, read once: objects, the state that tunnels see, waypoints' programs."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property

from ambient.api.errors import MeshError
from ambient.api.service import Service
from ambient.api.workload import Workload
from ambient.kube.io.client import KubeClient
from ambientctl.analyze.reading import Reading, read_cluster
from ambientctl.analyze.waypoint_problems import ANALYZERS
from ambientctl.pod_names import near
from ambientctl.why.mesh import Mesh
from ambientctl.why.snapshot import mesh_of
from istiod_lite.core.analysis.analyze import analyze
from istiod_lite.core.analysis.corpus import Corpus
from istiod_lite.core.analysis.finding import Finding
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.waypoints import Binding
from waypoint.core.authz import PolicySet as WaypointPolicies
from waypoint.core.place import Place


class View:
    """Everything that the describing commands ask."""

    def __init__(self, reading: Reading, system: str, now: datetime | None = None) -> None:
        self.system = system
        self.reading = reading
        self.corpus = Corpus(
            reading.items,
            now=now or datetime.now(UTC),
            facts=MeshFacts(root_namespace=system),
            listed=reading.listed,
        )

    @classmethod
    async def read(cls, kube: KubeClient, system: str) -> View:
        """Read the cluster."""
        return cls(await read_cluster(kube, system), system)

    @cached_property
    def mesh(self) -> Mesh:
        """As proxies see it."""
        return mesh_of(self.corpus.index)

    @cached_property
    def findings(self) -> list[Finding]:
        """What the analyzers say of the whole cluster."""
        return analyze(self.corpus, analyzers=ANALYZERS)

    def findings_about(self, refs: set[ObjectRef]) -> list[Finding]:
        """Of these objects only."""
        return [one for one in self.findings if one.ref in refs]

    def require_namespace(self, name: str) -> None:
        """Raises MeshError where it is known that there is no such namespace."""
        names = [one.ref.key.name for one in self.corpus.items("Namespace")]
        if names and name not in names:
            raise MeshError(f"there is no namespace {name}", hint=near(name, names, "there are"))

    def workload(self, namespace: str, name: str) -> Workload | None:
        """A pod or WorkloadEntry as tunnels know it."""
        named = (one for one in self.mesh.workloads if one.namespace == namespace)
        return next((one for one in named if one.name == name), None)

    def service(self, namespace: str, name: str) -> Service | None:
        """A Service as tunnels know it."""
        host = self.corpus.facts.hostname(ObjectKey(namespace, name))
        return self.corpus.index.services.get(f"{namespace}/{host}")

    def binding(self, ref: ObjectRef) -> Binding:
        """The waypoint of an object, and why."""
        return self.corpus.index.bindings.get(ref)

    def at_waypoint(self, gateway: ObjectKey, service: Service | None) -> WaypointPolicies:
        """The policies of a waypoint for a service, or for a pod's own address."""
        facts = self.corpus.facts
        place = Place(
            namespace=gateway.namespace,
            gateway=gateway.name,
            domain=facts.cluster_domain,
            trust_domain=facts.trust_domain,
            root_namespace=facts.root_namespace,
        )
        return self.mesh.program(place).policies(service)
