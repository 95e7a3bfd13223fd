"""Kubernetes events about pods, as ``kubectl describe`` shows them."""

from __future__ import annotations

import secrets
from typing import Final

from ambient.api.errors import MeshError
from ambient.kube.core.resources import EVENTS, KubeObject
from ambientctl.local.kube_api import KubeApi
from ambientctl.local.kubelet.status import timestamp

MAX_REMEMBERED: Final = 1000
"""Repeated events only count up; beyond this many different ones the oldest are forgotten."""


class Recorder:
    """Writes events; a repeated one counts up instead of filling the list."""

    def __init__(self, api: KubeApi, node: str) -> None:
        self._api = api
        self._node = node
        self._written: dict[tuple[str, str, str], tuple[str, int]] = {}

    async def record(self, pod: KubeObject, kind: str, reason: str, message: str) -> None:
        """Write one event. An event that cannot be written is lost, as on a cluster."""
        metadata = pod["metadata"]
        key = metadata["uid"], reason, message
        name, count = self._written.get(key, ("", 0))
        now = timestamp()
        try:
            if name:
                await self._api.patch(
                    EVENTS,
                    name,
                    {"count": count + 1, "lastTimestamp": now},
                    namespace=metadata["namespace"],
                )
            else:
                name = f"{metadata['name']}.{secrets.token_hex(8)}"
                await self._api.create(EVENTS, self._event(pod, name, (kind, reason, message), now))
        except MeshError:
            return
        self._written[key] = (name, count + 1)
        if len(self._written) > MAX_REMEMBERED:
            del self._written[next(iter(self._written))]

    def _event(
        self, pod: KubeObject, name: str, what: tuple[str, str, str], now: str
    ) -> KubeObject:
        metadata = pod["metadata"]
        kind, reason, message = what
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
