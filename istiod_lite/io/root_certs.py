"""ConfigMaps in every namespace: how pods verify the control plane, and what is revoked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

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


class Published(NamedTuple):
    """A ConfigMap and the one key in it."""

    config_map: str
    key: str


ROOTS: Final = Published("istio-ca-root-cert", "root-cert.pem")
CRL: Final = Published("istio-ca-crl", "ca-crl.pem")
SKIPPED: Final = frozenset({"kube-public", "kube-node-lease", "local-path-storage"})
"""Namespaces without pods of the mesh (Istio's list)."""
RETRY_S: Final = 2.0

log = get_logger("roots")


class Distribution:
    """Writes what is missing or different; nothing while there is nothing to publish."""

    def __init__(
        self, kube: KubeClient, index: Index, what: Published, content: Callable[[], str]
    ) -> None:
        self._kube = kube
        self._index = index
        self._what = what
        self._content = content
        self._present: dict[str, str] = {}
        self._dirty: dict[str, None] = {}
        self._wake = trio.Event()

    def look_at(self, namespaces: frozenset[str]) -> None:
        """These namespaces are new or have changed."""
        self._dirty |= dict.fromkeys(namespaces)
        self._wake.set()

    def look_at_all(self) -> None:
        """The content has changed."""
        self.look_at(frozenset(key.name for key in self._index.inputs.namespaces))

    async def run(self) -> None:
        """Until cancelled; run by the leader only."""
        self._present.clear()
        synced = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, synced)
            await synced.wait()
            self.look_at_all()
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                names, self._dirty = self._dirty, {}
                for name in names:
                    await self._ensure(name)

    async def _follow(self, synced: trio.Event) -> None:
        """Somebody may edit or delete the ConfigMaps."""
        field = f"metadata.name={self._what.config_map}"
        async with follow(self._kube, CONFIG_MAPS, field_selector=field) as events:
            async for event in events:
                if event.kind is EventKind.SYNCED:
                    synced.set()
                    continue
                namespace = str(event.object["metadata"].get("namespace", ""))
                if event.kind is EventKind.DELETED:
                    self._present.pop(namespace, None)
                else:
                    self._present[namespace] = self._read(event.object)
                if self._present.get(namespace) != self._content():
                    self.look_at(frozenset({namespace}))

    def _read(self, config_map: dict[str, Any]) -> str:
        return str((config_map.get("data") or {}).get(self._what.key, ""))

    async def _ensure(self, name: str) -> None:
        content = self._content()
        namespace = self._index.inputs.namespaces.get(ObjectKey("", name))
        if (
            not content
            or namespace is None
            or name in SKIPPED
            or self._present.get(name) == content
            or namespace.metadata.deletion_timestamp is not None
        ):
            return
        body = {
            "metadata": {
                "name": self._what.config_map,
                "namespace": name,
                "labels": {"istio.io/config": "true"},
            },
            "data": {self._what.key: content},
        }
        try:
            try:
                await self._kube.create(CONFIG_MAPS, body)
            except Conflict:
                await self._kube.patch(CONFIG_MAPS, self._what.config_map, body, namespace=name)
        except NotFound:
            return  # the namespace has gone in between
        except MeshError as error:
            log.warning(
                Event.CONTROLLER_RETRY,
                what=f"ConfigMap {name}/{self._what.config_map}",
                error=str(error),
                hint=error.hint,
                wait_s=RETRY_S,
            )
            await trio.sleep(RETRY_S)
            self.look_at(frozenset({name}))
            return
        # Whether it is right is for the watch to say: somebody may have changed it already.
        log.info(Event.ROOT_PUBLISHED, namespace=name, config_map=self._what.config_map)
