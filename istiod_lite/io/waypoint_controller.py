"""Runs a waypoint for every Gateway of our class, and says in its status how it is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.kube.core import objects
from ambient.kube.core.errors import Conflict, KubeError, NotFound
from ambient.kube.core.resources import (
    DEPLOYMENTS,
    GATEWAY_CLASSES,
    GATEWAYS,
    SERVICE_ACCOUNTS,
    KubeObject,
    Resource,
)
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core import gateway_status, revisions, waypoint_objects, waypoint_parameters
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.gateway_status import Standing
from istiod_lite.core.index import Index
from istiod_lite.core.network_gateways import REMOTE_CLASS
from istiod_lite.core.waypoint_objects import WaypointPlan
from istiod_lite.core.waypoint_parameters import Parameters, ParametersError
from istiod_lite.core.waypoints import MANAGED_BY_US, is_waypoint
from istiod_lite.io.keyed_queue import RETRY_S, KeyedQueue
from istiod_lite.io.overlays import Overlays

FIELD_MANAGER: Final = "istio.io/gateway-controller"
"""Istio's own, so that the two can take turns."""

_REFUSED: Final = (400, 422)
"""What the API server says to an object with fields that cannot be: asking again is no use."""

log = get_logger("waypoints")


class _Applied(msgspec.Struct):
    """What the cluster was told last for one Gateway."""

    uid: str
    wanted: list[tuple[Resource, KubeObject]]


class WaypointController:
    """Level-triggered: looks at a Gateway as it is now, whatever happened to it."""

    def __init__(
        self,
        kube: KubeClient,
        index: Index,
        plan: WaypointPlan,
        names: Callable[[], Collection[str]] = lambda: (revisions.DEFAULT,),
    ) -> None:
        """``names`` are our revision and the tags that point at it."""
        self._kube = kube
        self._index = index
        self._plan = plan
        self._names = names
        self._queue = KeyedQueue[ObjectKey]("Gateway", self._reconcile)
        self._overlays = Overlays(kube, plan.facts.root_namespace, self._parameters_changed)
        self._applied: dict[ObjectKey, _Applied] = {}

    def look_at(self, gateways: Collection[ObjectKey]) -> None:
        """These Gateways, or something in their status, have changed."""
        self._queue.add(gateways)

    async def run(self) -> None:
        """Until cancelled; run by the leader only."""
        self._applied.clear()
        for name in gateway_status.CONTROLLERS:
            await self._ensure_class(name)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._overlays.run)
            nursery.start_soon(self._follow_deployments)
            self.look_at(tuple(self._index.inputs.gateways))
            await self._queue.run()

    def _parameters_changed(self, key: ObjectKey | None) -> None:
        gateways = self._index.inputs.gateways
        found = tuple(gateways) if key is None else gateways.keys_by("namespace", key.namespace)
        self.look_at(found)

    async def _follow_deployments(self) -> None:
        """Somebody may edit or delete what runs a waypoint."""
        selector = f"{objects.MANAGED_LABEL}={MANAGED_BY_US}"
        async with follow(self._kube, DEPLOYMENTS, label_selector=selector) as events:
            async for event in events:
                if event.kind is EventKind.DELETED or _was_edited(event.object, event.old):
                    metadata = event.object["metadata"]
                    name = metadata.get("labels", {}).get(objects.GATEWAY_NAME_LABEL)
                    self._forget(ObjectKey(metadata["namespace"], str(name)))

    def _forget(self, key: ObjectKey) -> None:
        """Apply everything again, even if nothing else is to be told."""
        if self._applied.pop(key, None) is not None:
            self.look_at((key,))

    async def _ensure_class(self, name: str) -> None:
        """Created if absent; only its status is ever changed."""
        while True:
            try:
                try:
                    made = await self._kube.create(
                        GATEWAY_CLASSES, gateway_status.gateway_class(name)
                    )
                except Conflict:
                    made = await self._kube.get(GATEWAY_CLASSES, name)
                status = gateway_status.class_status(made, _now())
                if status is not None:
                    await self._kube.patch(
                        GATEWAY_CLASSES, name, {"status": status}, subresource="status"
                    )
                return
            except MeshError as error:
                log.warning(
                    Event.CONTROLLER_RETRY,
                    what=f"GatewayClass {name}",
                    error=str(error),
                    hint=error.hint,
                    wait_s=RETRY_S,
                )
                await trio.sleep(RETRY_S)

    async def _reconcile(self, key: ObjectKey) -> None:
        gateway = self._index.inputs.gateways.get(key)
        if gateway is None or gateway.metadata.deletion_timestamp is not None:
            # Everything we made refers to the Gateway as its owner and goes with it.
            self._applied.pop(key, None)
            return
        if not self._is_ours(gateway):
            return
        if gateway.spec.gateway_class_name == REMOTE_CLASS:
            await self._tell(key, gateway, gateway_status.of_remote(gateway, _now()))
            return
        # A Gateway with addresses of its own runs somewhere else.
        if not is_waypoint(gateway) or gateway.spec.addresses:
            return
        problem = ""
        try:
            await self._deploy(key, gateway, await self._parameters(gateway))
        except ParametersError as error:
            problem = f"{error}: {error.hint}"
            log.warning(
                Event.WAYPOINT_PARAMETERS, gateway=str(key), error=str(error), hint=error.hint
            )
        standing = self._standing(key, gateway, problem)
        status = gateway_status.of_waypoint(gateway, standing, self._plan.facts, _now())
        await self._tell(key, gateway, status)

    def _is_ours(self, gateway: objects.Gateway) -> bool:
        namespace = self._index.inputs.namespace_metadata(gateway.metadata.namespace)
        labels = namespace.labels if namespace is not None else None
        return revisions.runs(
            gateway.metadata.labels, labels, self._names()
        ) and not waypoint_objects.is_newer(gateway)

    async def _parameters(self, gateway: objects.Gateway) -> Parameters:
        """Raises ParametersError."""
        problem = waypoint_parameters.problem_of_reference(gateway)
        if problem:
            raise ParametersError(problem, hint="name a ConfigMap of the Gateway's namespace")
        found = self._overlays.defaults(gateway.spec.gateway_class_name)
        name = waypoint_parameters.reference(gateway)
        if name:
            key = ObjectKey(gateway.metadata.namespace, name)
            named = await self._overlays.named(key)
            if named is None:
                raise ParametersError(f"there is no ConfigMap {key}", hint="create it")
            found = [*found, named]
        return waypoint_parameters.read(found, self._plan.parameters)

    def _standing(self, key: ObjectKey, gateway: objects.Gateway, problem: str) -> Standing:
        index = self._index
        service = index.inputs.services.get(waypoint_objects.service_key(gateway))
        ips = service.virtual_ips if service is not None else ()
        return Standing(
            cluster_ip=ips[0] if ips else "",
            ready=index.ready_instances(key),
            routes=index.attached_routes(key),
            problem=problem,
            usage=gateway_status.usage(key, index.bindings),
        )

    async def _deploy(
        self, key: ObjectKey, gateway: objects.Gateway, parameters: Parameters
    ) -> None:
        """Apply what runs the waypoint, unless it was and still is."""
        plan = msgspec.structs.replace(self._plan, parameters=parameters)
        wanted = waypoint_objects.objects_of(gateway, plan)
        before = self._applied.get(key)
        account = ObjectKey(key.namespace, wanted[0][1]["metadata"]["name"])
        if (
            before is not None
            and (before.uid, before.wanted) == (gateway.metadata.uid, wanted)
            and self._index.inputs.services.get(waypoint_objects.service_key(gateway)) is not None
            and self._index.inputs.accounts.get(account) is not None
        ):
            return
        for resource, one in wanted:
            keep_size = resource == DEPLOYMENTS and parameters.autoscaled
            try:
                await self._put(resource, one, keep_size=keep_size)
            except KubeError as error:
                if error.status not in _REFUSED or not parameters.overlays:
                    raise
                hint = "correct what the ConfigMap lays over it"
                raise ParametersError(str(error), hint=hint) from None
        kinds = {resource for resource, _ in wanted}
        for resource in waypoint_objects.OPTIONAL:
            if resource not in kinds:
                await self._remove(resource, waypoint_objects.service_key(gateway))
        self._applied[key] = _Applied(gateway.metadata.uid, wanted)
        log.info(Event.WAYPOINT_DEPLOYED, gateway=str(key))

    async def _put(self, resource: Resource, wanted: KubeObject, *, keep_size: bool) -> None:
        """Server-side apply, except over what somebody else made under this name.

        ``keep_size``: the number of pods is an autoscaler's, so ours is the one that there is.
        """
        metadata = wanted["metadata"]
        existing = await self._existing(resource, metadata["name"], metadata["namespace"])
        if existing is not None and not _is_managed(existing):
            if resource == SERVICE_ACCOUNTS:
                return  # a shared account is the user's choice
            raise MeshError(
                f"{resource.kind} {metadata['namespace']}/{metadata['name']} is there already "
                "and does not belong to the waypoint",
                hint="give the Gateway another name, or remove the object",
            )
        if keep_size and existing is not None:
            replicas = existing.get("spec", {}).get("replicas")
            wanted = {**wanted, "spec": {**wanted["spec"], "replicas": replicas}}
        await self._kube.patch(
            resource,
            metadata["name"],
            wanted,
            namespace=metadata["namespace"],
            kind="apply",
            field_manager=FIELD_MANAGER,
            force=True,
        )

    async def _remove(self, resource: Resource, key: ObjectKey) -> None:
        existing = await self._existing(resource, key.name, key.namespace)
        if existing is not None and _is_managed(existing):
            await self._kube.delete(resource, key.name, key.namespace)

    async def _existing(self, resource: Resource, name: str, namespace: str) -> KubeObject | None:
        try:
            return await self._kube.get(resource, name, namespace)
        except NotFound:
            return None

    async def _tell(self, key: ObjectKey, gateway: objects.Gateway, wanted: KubeObject) -> None:
        """Write the status if it says something else."""
        if gateway_status.says_the_same(gateway, wanted):
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
        if addresses and not gateway.status.addresses:
            log.info(Event.WAYPOINT_PROGRAMMED, gateway=str(key), addresses=addresses)


def _is_managed(obj: KubeObject) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return bool(labels.get(objects.MANAGED_LABEL) == MANAGED_BY_US)


def _was_edited(new: KubeObject, old: KubeObject | None) -> bool:
    """Whether its specification is another one; an autoscaler's number is its own affair."""

    def spec(obj: KubeObject) -> dict[str, Any]:
        return {name: value for name, value in obj.get("spec", {}).items() if name != "replicas"}

    return old is not None and spec(new) != spec(old)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
