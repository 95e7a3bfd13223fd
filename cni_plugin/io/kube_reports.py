"""What the agent writes to the API server: the redirection annotation, and events."""

from __future__ import annotations

import datetime
from typing import Final

from ambient.api.errors import MeshError
from ambient.kube.core.errors import KubeError, NotFound
from ambient.kube.core.objects import REDIRECTION_ANNOTATION, Namespace, Pod
from ambient.kube.core.resources import EVENTS, PODS, KubeObject
from ambient.kube.io.client import KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

COMPONENT: Final = "ambient-cni-agent"
_MAX_MESSAGE: Final = 1024  # the API server's limit for an event's note

log = get_logger("agent")


async def annotate(kube: KubeClient, pod: Pod, value: str | None) -> KubeObject | None:
    """Set the redirection annotation, or remove it (None). The pod as it is then; None if gone.

    Raises KubeError, UnavailableError.
    """
    metadata = pod.metadata
    # The uid makes the server refuse when a new pod has taken the name.
    body = {"metadata": {"uid": metadata.uid, "annotations": {REDIRECTION_ANNOTATION: value}}}
    # A role may name pods/status, which a node agent needs less power for, or pods.
    for subresource in ("status", ""):
        try:
            answer = await kube.patch(
                PODS,
                metadata.name,
                body,
                namespace=metadata.namespace,
                subresource=subresource,
            )
        except NotFound:
            return None
        except KubeError as error:
            if subresource and error.status in (403, 405):
                continue
            raise
        annotations = answer["metadata"].get("annotations") or {}
        if annotations.get(REDIRECTION_ANNOTATION) == value:
            return answer
    return answer


async def evict(kube: KubeClient, pod: Pod) -> bool:
    """Have the pod start again somewhere; False where it is gone already.

    Raises KubeError where a disruption budget or a missing right forbids it, UnavailableError.
    """
    metadata = pod.metadata
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": metadata.name, "namespace": metadata.namespace},
        "deleteOptions": {"preconditions": {"uid": metadata.uid}},
    }
    try:
        await kube.request("POST", PODS.path(metadata.namespace, metadata.name, "eviction"), body)
    except NotFound:
        return False
    return True


class EventRecorder:
    """Kubernetes events about pods and namespaces; each text once per object."""

    def __init__(self, kube: KubeClient, node: str) -> None:
        self._kube = kube
        self._node = node
        self._last: dict[tuple[str, str], str] = {}

    def is_news(self, uid: str, reason: str, text: str) -> bool:
        """Whether the last text about the object, for this reason, was another; remembers it."""
        if self._last.get((uid, reason)) == text:
            return False
        self._last[uid, reason] = text
        return True

    def forget(self, uid: str, reason: str) -> None:
        """This is well again: the same text would be news."""
        self._last.pop((uid, reason), None)

    def forget_all(self) -> None:
        """Everything would be news."""
        self._last.clear()

    async def write(self, about: Pod | Namespace, kind: str, reason: str, text: str) -> None:
        """Write an event; where that fails, the log has to do."""
        metadata = about.metadata
        namespace = metadata.namespace or "default"
        now = datetime.datetime.now(datetime.UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "metadata": {
                "name": f"{metadata.name}.{now.timestamp():.6f}".replace(".", "-"),
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": type(about).__name__,
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
            },
            "type": kind,
            "reason": reason,
            "message": text[:_MAX_MESSAGE],
            "source": {"component": COMPONENT, "host": self._node},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._kube.create(EVENTS, event)
        except MeshError as error:
            log.warning(Event.KUBE_EVENT_FAILED, about=metadata.name, error=str(error))
