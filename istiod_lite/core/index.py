"""The mesh as proxies see it, kept up to date object by object.

``apply`` takes one Kubernetes object and returns the resource keys that changed by it; ``stage``
and ``settle`` do the same for many at once. Only what an object can influence is translated again:
``staging.py`` marks it, ``translating.py`` translates what is marked, ``world.py`` holds both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ambient.api.config import ConfigObject
from ambient.api.credential import Credential
from ambient.api.policy import Authorization
from ambient.api.service import Service
from ambient.api.workload import Workload
from ambient.kube.core.objects import ObjectError
from ambient.kube.core.resources import KubeObject
from istiod_lite.core import conditions, route_status, statuses
from istiod_lite.core.bindings import Bindings
from istiod_lite.core.changes import Changes, Pending, Remark
from istiod_lite.core.credentials import Credentials, Held
from istiod_lite.core.discovery import Discovery
from istiod_lite.core.facts import MeshFacts, ObjectKey, ObjectRef
from istiod_lite.core.inputs import (
    BACKEND_POLICY_KINDS,
    ROUTE_KINDS,
    TARGETED_KINDS,
    Inputs,
    key_of,
)
from istiod_lite.core.marks import Marks
from istiod_lite.core.results import Store
from istiod_lite.core.staging import KINDS, Staging
from istiod_lite.core.statuses import OUR_CONDITIONS, Reported, Wanted
from istiod_lite.core.translating import Translating
from istiod_lite.core.waypoint_configs import WaypointConfigs
from istiod_lite.core.world import World, only_labels_differ

REMARKING: Final = frozenset(
    {
        "AuthorizationPolicy",
        "PeerAuthentication",
        "ServiceEntry",
        "WorkloadEntry",
        *ROUTE_KINDS,
        *TARGETED_KINDS,
        *BACKEND_POLICY_KINDS,
    }
)
"""Kinds that have remarks even when they can be read."""


class Index:
    """Kubernetes objects in, mesh resources out."""

    KINDS: Final = KINDS

    def __init__(self, facts: MeshFacts | None = None) -> None:
        self.world = World(facts or MeshFacts())
        self._marks = Marks(self.world)
        self._pending = Pending()
        self._configs = WaypointConfigs(self.world)
        self._store = Store(self.world, self._pending, self._configs)
        self._credentials = Credentials(self.world, self._store, self._configs)
        parts = (self.world, self._marks, self._store, self._configs, self._credentials)
        self._staging = Staging(*parts)
        self._translating = Translating(*parts)
        self._discovery = Discovery(self.world)

    # In.

    def apply(self, kind: str, obj: KubeObject) -> Changes:
        """Take in one object (new or changed); what changed by it."""
        self.stage(kind, obj)
        return self.settle()

    def remove(self, kind: str, namespace: str, name: str) -> Changes:
        """Forget one object; what changed by that."""
        self.stage_removal(kind, ObjectKey(namespace, name))
        return self.settle()

    def load(self, found: Mapping[str, Iterable[KubeObject]]) -> Changes:
        """Take in whole lists by kind, such as a command line has just read them."""
        for kind in self.KINDS:
            for obj in found.get(kind, ()):
                self.stage(kind, obj)
        return self.settle()

    def stage(self, kind: str, obj: KubeObject) -> None:
        """Take in one object without translating yet. Kinds not in KINDS are ignored."""
        self._stage(kind, key_of(obj), obj)

    def stage_removal(self, kind: str, key: ObjectKey) -> None:
        """Forget one object without translating yet."""
        self._stage(kind, key, None)

    def stage_credential(self, ref: ObjectRef, held: Held | None) -> None:
        """What a Secret or ConfigMap of ``wanted_credentials`` contains; None: not followed."""
        self._credentials.put(ref, held)
        self._marks.believing(ref)

    def settle(self) -> Changes:
        """Translate what is marked; what changed since the last time."""
        self._translating.run()
        return self._take_changes()

    def _take_changes(self) -> Changes:
        world, pending = self.world, self._pending
        workloads = world.workloads.take_changes()
        labels = {
            uid
            for uid, old in workloads.items()
            if only_labels_differ(old, world.workloads.get(uid))
        }
        addresses = (workloads.keys() - labels) | world.services.take_changes().keys()
        pending.statuses = {ref for ref in pending.statuses if self.status_differs(ref)}
        for name in pending.configs:
            pending.waypoints |= self._configs.waypoints_of(name)
        authorizations = set(world.authorizations.take_changes())
        return pending.take(addresses, labels, authorizations)

    # Out.

    @property
    def facts(self) -> MeshFacts:
        """The mesh's names and choices as they are now."""
        return self.world.facts

    @property
    def inputs(self) -> Inputs:
        """The objects."""
        return self.world.inputs

    @property
    def bindings(self) -> Bindings:
        """Who uses which waypoint."""
        return self.world.bindings

    @property
    def workloads(self) -> Mapping[str, Workload]:
        """By uid."""
        return self.world.workloads

    @property
    def services(self) -> Mapping[str, Service]:
        """By ``namespace/hostname``."""
        return self.world.services

    @property
    def authorizations(self) -> Mapping[str, Authorization]:
        """By ``namespace/name``."""
        return self.world.authorizations

    def configs_for_waypoint(self, namespace: str, name: str) -> dict[str, ConfigObject]:
        """The L7 objects that this waypoint needs, by resource name."""
        names = self._configs.of(ObjectKey(namespace, name))
        return {one: self.inputs.configs[one] for one in names}

    @property
    def wanted_credentials(self) -> frozenset[ObjectRef]:
        """The Secrets and ConfigMaps that DestinationRules name for waypoints."""
        return self._credentials.wanted

    def credentials_for_waypoint(self, namespace: str, name: str) -> Mapping[str, Credential]:
        """What this waypoint's TLS uses, by resource name."""
        return self._credentials.of(ObjectKey(namespace, name))

    def attached_routes(self, gateway: ObjectKey) -> int:
        """How many routes hang on a waypoint by its Gateway."""
        routes = self.inputs.routes
        refs = routes.keys_by("parent", ObjectRef("Gateway", gateway))
        found = ((ref, routes.get(ref)) for ref in refs)
        return sum(
            route is not None and route_status.attaches(ref, route, gateway, self.world)
            for ref, route in found
        )

    def ready_instances(self, gateway: ObjectKey) -> int:
        """How many ready pods this Gateway has."""
        return sum(pod.ready for pod in self.inputs.pods.by("gateway", gateway))

    def remarks(self) -> tuple[Remark, ...]:
        """All remarks about the objects as they are now."""
        return tuple(one for several in self._store.remarks.values() for one in several)

    def status_differs(self, ref: ObjectRef) -> bool:
        """Whether an object's status does not say what we have to say."""
        have = self.world.reported.get(ref)
        return have is not None and not statuses.says_the_same(have, self.wanted(ref))

    def wanted(self, ref: ObjectRef) -> Wanted:
        """What we have to say about an object."""
        return self.world.statuses.get(ref, ())

    def reported(self, ref: ObjectRef) -> Reported | None:
        """What its status says, None where the object is gone."""
        return self.world.reported.get(ref)

    def all_statuses(self) -> frozenset[ObjectRef]:
        """Everything whose status differs, for a writer that begins."""
        return frozenset(ref for ref in self.world.reported if self.status_differs(ref))

    # Staging.

    def _stage(self, kind: str, key: ObjectKey, obj: KubeObject | None) -> None:
        self._note(kind, key, self._discovery.seen(kind, key, obj))
        if kind in ("Namespace", "MeshConfig"):
            for ref, again in self._discovery.flipped():
                self._note(ref.kind, ref.key, again)

    def _note(self, kind: str, key: ObjectKey, obj: KubeObject | None) -> None:
        stager = self._staging.stagers.get(kind)
        if stager is None:
            return
        self._note_status(kind, key, obj)
        if obj is None or kind not in REMARKING:
            self._store.remark(kind, key, ())
        try:
            stager(key, obj)
        except ObjectError as error:
            # What cannot be read is as if it were not there; security policies see to themselves.
            stager(key, None)
            self._store.remark(kind, key, (error.reason,), error.hint)
            if kind in OUR_CONDITIONS and kind != "Service":
                told = conditions.of_unreadable(error.reason, error.hint)
                self._store.put_status(ObjectRef(kind, key), (told,))

    def _note_status(self, kind: str, key: ObjectKey, obj: KubeObject | None) -> None:
        if kind not in OUR_CONDITIONS and statuses.shape_of(kind) is None:
            return
        ref = ObjectRef(kind, key)
        if obj is None:
            self.world.reported.pop(ref, None)
            self._store.put_status(ref, ())
        else:
            self.world.reported[ref] = statuses.reported(kind, obj)
            self._pending.statuses.add(ref)
