"""Gives hosts of ServiceEntries virtual addresses, in the entries' status; the leader does it."""

from __future__ import annotations

from typing import Final

from ambient.kube.core.errors import NotFound
from ambient.kube.core.resources import SERVICE_ENTRIES
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core.address_pool import AddressPool
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.index import Index
from istiod_lite.io.keyed_queue import KeyedQueue

FIELD_MANAGER: Final = "istio-ip-autoallocate"

log = get_logger("addresses")


class AddressAllocator:
    """The pool is filled from what the entries say, so that any replica can go on."""

    def __init__(self, kube: KubeClient, index: Index) -> None:
        self._kube = kube
        self._index = index
        self._pool = AddressPool()
        self._queue = KeyedQueue[ObjectKey]("addresses of ServiceEntry", self._write)

    def look_at(self, entries: frozenset[ObjectKey]) -> None:
        """These entries are new, different or gone."""
        found = self._index.inputs.service_entries
        for key in sorted(entries, key=self._age):
            self._queue.add(self._pool.put(key, found.get(key)))

    def _age(self, key: ObjectKey) -> tuple[tuple[str, str, str], ObjectKey]:
        """Older entries choose first."""
        entry = self._index.inputs.service_entries.get(key)
        return (entry.metadata.age_order if entry is not None else ("", "", "")), key

    async def run(self) -> None:
        """Until cancelled; run by the leader only."""
        self._pool = AddressPool()
        self.look_at(frozenset(self._index.inputs.service_entries))
        await self._queue.run()

    async def _write(self, key: ObjectKey) -> None:
        entry = self._index.inputs.service_entries.get(key)
        wanted = self._pool.wanted(key)
        if entry is None or wanted is None or wanted == (entry.status.addresses or ()):
            return
        addresses = [{"value": one.value, "host": one.host} for one in wanted]
        version = entry.metadata.resource_version
        try:
            await self._kube.patch(
                SERVICE_ENTRIES,
                key.name,
                {
                    "metadata": {"resourceVersion": version},
                    "status": {"addresses": addresses or None},
                },
                namespace=key.namespace,
                subresource="status",
                field_manager=FIELD_MANAGER,
            )
        except NotFound:
            return  # deleted in between
        log.info(Event.ADDRESSES_GIVEN, service_entry=str(key), addresses=addresses)
