"""What has to be translated again, and who depends on whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ambient.kube.core import objects
from istiod_lite.core import endpoint_slices
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.inputs import rarest
from istiod_lite.core.world import World


class Marks:
    """Ordered sets of objects by kind; the index empties them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.services: dict[ObjectKey, None] = {}
        self.service_entries: dict[ObjectKey, None] = {}
        self.pods: dict[ObjectKey, None] = {}
        self.workload_entries: dict[ObjectKey, None] = {}
        self.slices: dict[ObjectKey, None] = {}
        self.policies: dict[ObjectKey, None] = {}
        """Those with targets."""
        self.targeted: dict[ObjectRef, None] = {}
        self.routes: dict[ObjectRef, None] = {}
        self.backend_policies: dict[ObjectRef, None] = {}
        self.gateways: dict[ObjectKey, None] = {}
        """Whose admission may differ."""
        self.networks: dict[str, None] = {}
        """Whose gateways may differ."""

    def ref(self, ref: ObjectRef) -> None:
        """One object that has a binding."""
        table = {
            "Service": self.services,
            "ServiceEntry": self.service_entries,
            "Pod": self.pods,
            "WorkloadEntry": self.workload_entries,
        }[ref.kind]
        table[ref.key] = None

    def slice(self, key: ObjectKey) -> None:
        """A slice, and the pods that only it puts behind its service."""
        slice_ = self._world.inputs.slices.get(key)
        self.slices[key] = None
        if slice_ is None:
            return
        service = self._world.service_of(slice_)
        # Pods of a service with a selector are found by it, readiness by their own status.
        if service is None or not service.spec.selector:
            self.pods |= dict.fromkeys(endpoint_slices.pods_of(slice_))

    def selected(self, namespace: str, selector: Mapping[str, str] | None) -> None:
        """Workloads of a namespace that a selector selects; an empty one selects all."""
        inputs, wanted = self._world.inputs, dict(selector or {})
        for key in rarest(inputs.pods, namespace, selector):
            pod = inputs.pods.get(key)
            if pod is not None and objects.selects(wanted, pod.metadata.labels):
                self.pods[key] = None
        for key in rarest(inputs.workload_entries, namespace, selector):
            entry = inputs.workload_entries.get(key)
            if entry is not None and objects.selects(wanted, entry.labels):
                self.workload_entries[key] = None

    def selected_by_policy(self, namespace: str, selector: Mapping[str, str] | None) -> None:
        """The same for a policy: of the root namespace it selects in all of them, and endpoints
        of a ServiceEntry by the entry's labels.
        """
        inputs, wanted = self._world.inputs, dict(selector or {})
        homes: Iterable[str] = (namespace,)
        if namespace == self._world.facts.root_namespace:
            tables = (inputs.pods, inputs.workload_entries, inputs.service_entries)
            homes = {str(home) for table in tables for home in table.values_of("namespace")}
        for home in homes:
            self.selected(home, selector)
            for key in inputs.service_entries.keys_by("namespace", home):
                entry = inputs.service_entries.get(key)
                if entry is not None and objects.selects(wanted, entry.metadata.labels):
                    self.service_entries[key] = None

    def members(self, ref: ObjectRef) -> None:
        """The workloads behind a service."""
        inputs = self._world.inputs
        if ref.kind == "Service":
            service = inputs.services.get(ref.key)
            if service is not None and service.spec.selector:
                self.selected(ref.key.namespace, service.spec.selector)
            for key in inputs.slices.keys_by("service", ref.key):
                self.slice(key)
        elif ref.kind == "ServiceEntry":
            entry = inputs.service_entries.get(ref.key)
            if entry is not None and entry.selector:
                self.selected(ref.key.namespace, entry.selector)

    def namespace(self, name: str) -> None:
        """Everything that reads its namespace's labels."""
        inputs = self._world.inputs
        self.services |= dict.fromkeys(inputs.services.keys_by("namespace", name))
        self.routes |= dict.fromkeys(inputs.routes.keys_by("namespace", name))
        self.service_entries |= dict.fromkeys(inputs.service_entries.keys_by("namespace", name))
        self.selected(name, None)

    def network(self, name: str) -> None:
        """Everything that goes through a gateway of that network."""
        inputs = self._world.inputs
        self.workload_entries |= dict.fromkeys(inputs.workload_entries.keys_by("network", name))
        self.service_entries |= dict.fromkeys(inputs.service_entries.keys_by("network", name))

    def pointing_at(self, ref: ObjectRef) -> None:
        """Policies and routes that name an object."""
        inputs = self._world.inputs
        self.policies |= dict.fromkeys(inputs.policies.keys_by("target", ref))
        self.targeted |= dict.fromkeys(inputs.targeted.keys_by("target", ref))
        self.targeting(ref)
        self.routes |= dict.fromkeys(inputs.routes.keys_by("parent", ref))
        self.routes |= dict.fromkeys(inputs.routes.keys_by("backend", ref))

    def targeting(self, ref: ObjectRef) -> None:
        """Policies of a backend: the oldest counts."""
        found = self._world.inputs.backend_policies.keys_by("target", ref)
        self.backend_policies |= dict.fromkeys(found)

    def believing(self, ref: ObjectRef) -> None:
        """Policies whose authorities are in this object."""
        found = self._world.inputs.backend_policies.keys_by("authority", ref)
        self.backend_policies |= dict.fromkeys(found)

    def everything(self) -> None:
        """After a change of the mesh's own facts."""
        inputs = self._world.inputs
        self.services |= dict.fromkeys(inputs.services)
        self.service_entries |= dict.fromkeys(inputs.service_entries)
        self.pods |= dict.fromkeys(inputs.pods)
        self.workload_entries |= dict.fromkeys(inputs.workload_entries)
        self.slices |= dict.fromkeys(inputs.slices)
        self.networks |= {str(name): None for name in inputs.gateways.values_of("network")}
