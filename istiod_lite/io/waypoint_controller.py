"""Runs a waypoint for every Gateway of our class, and says in its status how it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core import objects
from ambient.kube.core.errors import Conflict, NotFound
from ambient.kube.core.resources import (
    DEPLOYMENTS,
    GATEWAY_CLASSES,
    GATEWAYS,
    SERVICE_ACCOUNTS,
    SERVICES,
    KubeObject,
    Resource,
)
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core import waypoint_objects
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.index import Index
from istiod_lite.core.waypoint_objects import WaypointPlan
from istiod_lite.core.waypoints import MANAGED_BY_US, WAYPOINT_CLASS, is_waypoint

FIELD_MANAGER: Final = "istio.io/gateway-controller"
"""Istio's own, so that the two can take turns."""
RETRY_S: Final = 2.0

log = get_logger("waypoints")


class WaypointController:
    """Level-triggered: looks at a Gateway as it is now, whatever happened to it."""

    def __init__(self, kube: KubeClient, index: Index, plan: WaypointPlan) -> None:
        self._kube = kube
        self._index = index
        self._plan = plan
        self._dirty: dict[ObjectKey, None] = {}
        self._wake = trio.Event()
        self._applied: dict[ObjectKey, objects.Gateway] = {}

    def look_at(self, gateways: frozenset[ObjectKey]) -> None:
        """These Gateways, or the Services and pods of theirs, have changed."""
        self._dirty |= dict.fromkeys(gateways)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled; run by the leader only."""
        self._applied.clear()
        await self._ensure_class()
        self.look_at(frozenset(self._index.inputs.gateways))
        async with trio.open_nursery() as retries:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                keys, self._dirty = self._dirty, {}
                for key in keys:
                    try:
                        await self._reconcile(key)
                    except MeshError as error:
                        retries.start_soon(self._again, key, error)

    async def _again(self, key: ObjectKey, error: MeshError) -> None:
        await self._later(f"Gateway {key}", error)
        self.look_at(frozenset({key}))

    async def _ensure_class(self) -> None:
        """Created if absent; only its status is ever changed."""
        while True:
            try:
                try:
                    made = await self._kube.create(
                        GATEWAY_CLASSES, waypoint_objects.gateway_class()
                    )
                except Conflict:
                    made = await self._kube.get(GATEWAY_CLASSES, WAYPOINT_CLASS)
                status = waypoint_objects.class_status(made, _now())
                if status is not None:
                    await self._kube.patch(
                        GATEWAY_CLASSES, WAYPOINT_CLASS, {"status": status}, subresource="status"
                    )
                return
            except MeshError as error:
                await self._later(f"GatewayClass {WAYPOINT_CLASS}", error)

    async def _later(self, what: str, error: MeshError) -> None:
        log.warning(
            Event.CONTROLLER_RETRY, what=what, error=str(error), hint=error.hint, wait_s=RETRY_S
        )
        await trio.sleep(RETRY_S)

    async def _reconcile(self, key: ObjectKey) -> None:
        gateway = self._index.inputs.gateways.get(key)
        if gateway is None or gateway.metadata.deletion_timestamp is not None:
            # Everything we made refers to the Gateway as its owner and goes with it.
            self._applied.pop(key, None)
            return
        # A Gateway with addresses of its own runs somewhere else.
        if not is_waypoint(gateway) or gateway.spec.addresses:
            return
        before = self._applied.get(key)
        if (
            before is None
            or (before.metadata.uid, before.metadata.annotations, before.spec)
            != (gateway.metadata.uid, gateway.metadata.annotations, gateway.spec)
            or self._index.inputs.services.get(key) is None
        ):
            await self._deploy(gateway)
            self._applied[key] = gateway
        await self._tell(key, gateway)

    async def _deploy(self, gateway: objects.Gateway) -> None:
        await self._put(SERVICE_ACCOUNTS, waypoint_objects.service_account(gateway))
        await self._put(SERVICES, waypoint_objects.service(gateway))
        await self._put(DEPLOYMENTS, waypoint_objects.deployment(gateway, self._plan))
        log.info(
            Event.WAYPOINT_DEPLOYED,
            gateway=f"{gateway.metadata.namespace}/{gateway.metadata.name}",
        )

    async def _put(self, resource: Resource, wanted: KubeObject) -> None:
        """Server-side apply, except over what somebody else made under this name."""
        metadata = wanted["metadata"]
        try:
            existing = await self._kube.get(resource, metadata["name"], metadata["namespace"])
        except NotFound:
            pass
        else:
            labels = existing["metadata"].get("labels") or {}
            if labels.get(objects.MANAGED_LABEL) != MANAGED_BY_US:
                if resource == SERVICE_ACCOUNTS:
                    return  # a shared account is the user's choice
                raise MeshError(
                    f"{resource.kind} {metadata['namespace']}/{metadata['name']} is there already "
                    "and does not belong to the waypoint",
                    hint="give the Gateway another name, or remove the object",
                )
        await self._kube.patch(
            resource,
            metadata["name"],
            wanted,
            namespace=metadata["namespace"],
            kind="apply",
            field_manager=FIELD_MANAGER,
            force=True,
        )

    async def _tell(self, key: ObjectKey, gateway: objects.Gateway) -> None:
        """Write the status if it says something else."""
        service = self._index.inputs.services.get(key)
        ips = service.virtual_ips if service is not None else ()
        wanted = waypoint_objects.status(
            gateway,
            ips[0] if ips else "",
            self._index.ready_instances(key),
            self._plan.facts,
            _now(),
        )
        if waypoint_objects.says_the_same(gateway, wanted):
            return
        try:
            await self._kube.patch(
                GATEWAYS,
                key.name,
                {"status": wanted},
                namespace=key.namespace,
                subresource="status",
                field_manager=FIELD_MANAGER,
            )
        except NotFound:
            return  # deleted in between
        addresses = [one["value"] for one in wanted["addresses"]]
        if addresses:
            log.info(Event.WAYPOINT_PROGRAMMED, gateway=str(key), addresses=addresses)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
