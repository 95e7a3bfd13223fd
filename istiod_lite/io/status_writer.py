"""Writes what we have to say into the status of other people's objects; the leader does it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ambient.kube.core import resources
from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import Resource
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core import statuses
from istiod_lite.core.facts import ObjectRef
from istiod_lite.core.index import Index
from istiod_lite.core.statuses import WAYPOINT_ACCEPTED, Reported, Wanted
from istiod_lite.io.keyed_queue import KeyedQueue

PARALLEL: Final = 8
"""A label on a namespace may change the status of a thousand Services at once."""
SERVICE_MANAGER: Final = "istio-ambient-service"
WORKLOAD_ENTRY_MANAGER: Final = "istio-ambient-workloadentry"
ZTUNNEL_POLICY_MANAGER: Final = "istio-ambient-ztunnel-policy"
WAYPOINT_POLICY_MANAGER: Final = "istio-ambient-waypoint-policy"
"""Field managers are Istio's, so that the two can take turns."""
RESOURCES: Final[Mapping[str, Resource]] = {
    one.kind: one
    for one in (
        resources.SERVICES,
        resources.SERVICE_ENTRIES,
        resources.WORKLOAD_ENTRIES,
        resources.AUTHORIZATION_POLICIES,
        resources.PEER_AUTHENTICATIONS,
        resources.REQUEST_AUTHENTICATIONS,
        resources.TELEMETRIES,
        resources.ENVOY_FILTERS,
        resources.DESTINATION_RULES,
        *resources.ROUTES,
        *resources.BACKEND_POLICIES,
    )
}

log = get_logger("status")


class StatusWriter:
    """Level-triggered: compares once more before it writes."""

    def __init__(self, kube: KubeClient, index: Index) -> None:
        self._kube = kube
        self._index = index
        self._queue = KeyedQueue[ObjectRef]("status of", self._write, parallel=PARALLEL)

    def look_at(self, refs: frozenset[ObjectRef]) -> None:
        """What we have to say about these has changed, or their status has."""
        self._queue.add(refs)

    async def run(self) -> None:
        """Until cancelled; run by the leader only."""
        self.look_at(self._index.all_statuses())
        await self._queue.run()

    async def _write(self, ref: ObjectRef) -> None:
        have, wanted = self._index.reported(ref), self._index.wanted(ref)
        if have is None or not self._index.status_differs(ref):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            if statuses.shape_of(ref.kind) is not None:
                await self._write_parents(ref, have, wanted, now)
            else:
                await self._write_conditions(ref, have, wanted, now)
        except NotFound:
            return  # deleted in between
        log.debug(Event.STATUS_WRITTEN, object=str(ref))

    async def _write_conditions(
        self, ref: ObjectRef, have: Reported, wanted: Wanted, now: str
    ) -> None:
        """Server-side apply: what a manager does not apply any more goes away."""
        made = statuses.render(have, wanted, now)
        managers: dict[str, list[dict[str, Any]]] = {}
        for one in (*have.conditions, *made):
            managers.setdefault(_manager(ref.kind, str(one.get("type"))), [])
        for one in made:
            managers[_manager(ref.kind, one["type"])].append(one)
        for manager, conditions in managers.items():
            metadata = {"name": ref.key.name, "namespace": ref.key.namespace}
            status = {"conditions": conditions} if conditions else {}
            await self._kube.patch(
                RESOURCES[ref.kind],
                ref.key.name,
                {"metadata": metadata, "status": status},
                namespace=ref.key.namespace,
                kind="apply",
                subresource="status",
                field_manager=manager,
                force=True,
            )

    async def _write_parents(
        self, ref: ObjectRef, have: Reported, wanted: Wanted, now: str
    ) -> None:
        """One list for all controllers: only if nobody wrote in between."""
        others = [one for one in have.parents if one not in have.ours]
        parents = [*others, *statuses.render_parents(have, wanted, now)]
        await self._kube.patch(
            RESOURCES[ref.kind],
            ref.key.name,
            {"metadata": {"resourceVersion": have.version}, "status": {have.shape.field: parents}},
            namespace=ref.key.namespace,
            subresource="status",
            field_manager=have.shape.controller,
        )


def _manager(kind: str, type_: str) -> str:
    if type_ == WAYPOINT_ACCEPTED:
        return WAYPOINT_POLICY_MANAGER
    if kind in ("AuthorizationPolicy", "PeerAuthentication"):
        return ZTUNNEL_POLICY_MANAGER
    return WORKLOAD_ENTRY_MANAGER if kind == "WorkloadEntry" else SERVICE_MANAGER
