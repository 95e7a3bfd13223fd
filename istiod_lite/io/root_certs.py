"""ConfigMap istio-ca-root-cert in every namespace: how pods verify the control plane."""

from __future__ import annotations

from typing import Any, Final

import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import Conflict, NotFound
from ambient.kube.core.resources import CONFIG_MAPS
from ambient.kube.core.watch import EventKind
from ambient.kube.io.client import KubeClient
from ambient.kube.io.watch import follow
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from istiod_lite.core.facts import ObjectKey
from istiod_lite.core.index import Index

CONFIG_MAP: Final = "istio-ca-root-cert"
KEY: Final = "root-cert.pem"
SKIPPED: Final = frozenset({"kube-public", "kube-node-lease", "local-path-storage"})
"""Namespaces without pods of the mesh (Istio's list)."""
RETRY_S: Final = 2.0

log = get_logger("roots")


class RootCertificates:
    """Writes what is missing or different; ``namespaces`` wakes it."""

    def __init__(self, kube: KubeClient, index: Index, roots_pem: str) -> None:
        self._kube = kube
        self._index = index
        self._roots = roots_pem
        self._current: set[str] = set()
        self._dirty: dict[str, None] = {}
        self._wake = trio.Event()

    def look_at(self, namespaces: frozenset[str]) -> None:
        """These namespaces are new or have changed."""
        self._dirty |= dict.fromkeys(namespaces)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled; run by the leader only."""
        self._current.clear()
        synced = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, synced)
            await synced.wait()
            self.look_at(frozenset(key.name for key in self._index.inputs.namespaces))
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                names, self._dirty = self._dirty, {}
                for name in names:
                    await self._ensure(name)

    async def _follow(self, synced: trio.Event) -> None:
        """Somebody may edit or delete the ConfigMaps."""
        field = f"metadata.name={CONFIG_MAP}"
        async with follow(self._kube, CONFIG_MAPS, field_selector=field) as events:
            async for event in events:
                if event.kind is EventKind.SYNCED:
                    synced.set()
                    continue
                namespace = str(event.object["metadata"].get("namespace", ""))
                if event.kind is not EventKind.DELETED and self._is_right(event.object):
                    self._current.add(namespace)
                else:
                    self._current.discard(namespace)
                    self.look_at(frozenset({namespace}))

    def _is_right(self, config_map: dict[str, Any]) -> bool:
        return (config_map.get("data") or {}).get(KEY) == self._roots

    async def _ensure(self, name: str) -> None:
        namespace = self._index.inputs.namespaces.get(ObjectKey("", name))
        if (
            namespace is None
            or name in SKIPPED
            or name in self._current
            or namespace.metadata.deletion_timestamp is not None
        ):
            return
        body = {
            "metadata": {
                "name": CONFIG_MAP,
                "namespace": name,
                "labels": {"istio.io/config": "true"},
            },
            "data": {KEY: self._roots},
        }
        try:
            try:
                await self._kube.create(CONFIG_MAPS, body)
            except Conflict:
                await self._kube.patch(CONFIG_MAPS, CONFIG_MAP, body, namespace=name)
        except NotFound:
            return  # the namespace has gone in between
        except MeshError as error:
            log.warning(
                Event.CONTROLLER_RETRY,
                what=f"ConfigMap {name}/{CONFIG_MAP}",
                error=str(error),
                hint=error.hint,
                wait_s=RETRY_S,
            )
            await trio.sleep(RETRY_S)
            self.look_at(frozenset({name}))
            return
        # Whether it is right is for the watch to say: somebody may have changed it already.
        log.info(Event.ROOT_PUBLISHED, namespace=name)
