"""One of several replicas writes: whoever holds the Lease."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict, NotFound
from ambient.kube.core.resources import LEASES
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

LEASE_NAME: Final = "istiod-lite-writer"

log = get_logger("leader")


class Leader:
    """Holds the Lease as long as it can, and runs the writers only while it does."""

    def __init__(
        self,
        kube: KubeClient,
        namespace: str,
        name: str,
        lease_s: float,
        lease: str = LEASE_NAME,
    ) -> None:
        self._kube = kube
        self._lease = lease
        self._namespace = namespace
        # A pod that restarts keeps its name but is another process.
        self._identity = f"{name}_{uuid.uuid4().hex[:8]}"
        self._lease_s = lease_s
        self._seen: tuple[str, float] = ("", 0.0)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Compete for ever; ``work`` runs while we lead and is cancelled when we do not."""
        while True:
            if not await self._acquire():
                await trio.sleep(self._lease_s / 6)
                continue
            log.info(Event.LEADER_ELECTED, identity=self._identity)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep, nursery.cancel_scope)
                nursery.start_soon(work)
            log.warning(Event.LEADER_LOST, identity=self._identity)

    async def release(self) -> None:
        """If we hold the Lease, let another replica lead at once instead of after its end."""
        try:
            lease = await self._kube.get(LEASES, self._lease, self._namespace)
            if lease.get("spec", {}).get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._kube.replace(LEASES, lease)
        except MeshError:
            return  # It ends by itself.

    async def _keep(self, work: trio.CancelScope) -> None:
        """Renew three times in a Lease's life; give up before anybody else may take over."""
        renewed = trio.current_time()
        while trio.current_time() < renewed + self._lease_s * 2 / 3:
            await trio.sleep(self._lease_s / 3)
            if await self._acquire():
                renewed = trio.current_time()
        work.cancel()

    async def _acquire(self) -> bool:
        """Take or renew the Lease if it is free or ours."""
        try:
            with trio.move_on_after(self._lease_s / 3):
                return await self._try()
        except Conflict:
            pass  # another replica was quicker
        except MeshError as error:
            log.warning(Event.CONTROLLER_RETRY, what=f"Lease {self._lease}", error=str(error))
        return False

    async def _try(self) -> bool:
        try:
            lease = await self._kube.get(LEASES, self._lease, self._namespace)
        except NotFound:
            metadata = {"name": self._lease, "namespace": self._namespace}
            await self._kube.create(LEASES, {"metadata": metadata, "spec": self._spec()})
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(lease, spec):
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        lease["spec"] = {**spec, **self._spec(), "leaseTransitions": transitions}
        if holder == self._identity:
            lease["spec"]["acquireTime"] = spec.get("acquireTime")
        # With its resourceVersion: of two replicas that try at once one gets a Conflict.
        await self._kube.replace(LEASES, lease)
        return True

    def _expired(self, lease: dict[str, Any], spec: dict[str, Any]) -> bool:
        """Whether it has not changed for its whole life, by our own clock only."""
        version = str(lease["metadata"].get("resourceVersion"))
        if self._seen[0] != version:
            self._seen = (version, trio.current_time())
        life = float(spec.get("leaseDurationSeconds") or self._lease_s)
        return trio.current_time() >= self._seen[1] + life

    def _spec(self) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._lease_s),
            "acquireTime": now,
            "renewTime": now,
        }
