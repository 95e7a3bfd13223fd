"""The API server's verbs without HTTP, for the parts that live in the same process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import trio

from ambient.kube.core.errors import Conflict, KubeError, NotFound
from ambient.kube.core.resources import PODS, SERVICE_ACCOUNTS, KubeObject, Resource
from ambient.kube.core.watch import EventKind, WatchEvent
from ambientctl.local.apiserver.core.cluster import Call, Cluster
from ambientctl.local.apiserver.core.deletion import DeleteOptions
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.patches import APPLY_PATCH, MERGE_PATCH
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.apiserver.core.tokens import TokenAuthority

T = TypeVar("T")

_ERRORS: dict[int, type[KubeError]] = {404: NotFound, 409: Conflict}


class DirectApi:
    """A ``kube_api.KubeApi`` on the embedded server's own objects."""

    def __init__(self, cluster: Cluster, tokens: TokenAuthority, manager: str) -> None:
        self._cluster = cluster
        self._tokens = tokens
        self._call = Call(manager=manager)

    async def get(self, res: Resource, name: str, namespace: str | None = None) -> KubeObject:
        """One object."""
        await trio.lowlevel.checkpoint()
        return _translated(lambda: self._cluster.get(self._kind(res), namespace or "", name))

    async def create(self, res: Resource, obj: KubeObject, subresource: str = "") -> KubeObject:
        """Create an object, or ask for a token."""
        await trio.lowlevel.checkpoint()
        namespace = obj["metadata"].get("namespace", "")
        if (res, subresource) == (SERVICE_ACCOUNTS, "token"):
            return _translated(lambda: self._token(obj))
        return _translated(
            lambda: self._cluster.create(self._kind(res), namespace, obj, self._call)
        )

    async def patch(
        self,
        res: Resource,
        name: str,
        body: Any,
        *,
        namespace: str | None = None,
        subresource: str = "",
    ) -> KubeObject:
        """JSON merge patch."""
        await trio.lowlevel.checkpoint()
        place = (namespace or "", name)
        return _translated(
            lambda: self._cluster.patch(
                self._kind(res), place, MERGE_PATCH, body, self._call, subresource
            )[0]
        )

    async def apply(self, obj: KubeObject) -> KubeObject:
        """Server-side apply of a manifest."""
        await trio.lowlevel.checkpoint()
        metadata = obj["metadata"]

        def perform() -> KubeObject:
            kind = self._cluster.kind_of(obj)
            namespace = metadata.get("namespace", "default") if kind.namespaced else ""
            place = (namespace, metadata["name"])
            call = self._call._replace(force=True)
            return self._cluster.patch(kind, place, APPLY_PATCH, obj, call)[0]

        return _translated(perform)

    async def delete(
        self, res: Resource, name: str, namespace: str | None = None, grace_s: int | None = None
    ) -> None:
        """Delete, after ``grace_s`` where given."""
        await trio.lowlevel.checkpoint()
        options = DeleteOptions(grace_s=grace_s)
        _translated(
            lambda: self._cluster.delete(
                self._kind(res), namespace or "", name, options, self._call
            )
        )

    async def follow(self, res: Resource, *, field_selector: str = "") -> AsyncIterator[WatchEvent]:
        """All namespaces: list, SYNCED, then changes. Only ``spec.nodeName=`` is selected by."""
        wanted = _selector(field_selector)
        kind = self._kind(res)
        changes: deque[Change] = deque()
        bell = trio.Event()

        def note(change: Change) -> None:
            changes.append(change)
            bell.set()

        unsubscribe = self._cluster.store.subscribe(kind.key, note)
        try:
            for obj in self._cluster.store.objects(kind.key):
                if wanted(obj):
                    yield WatchEvent(EventKind.ADDED, obj)
            yield WatchEvent(EventKind.SYNCED, {})
            while True:
                while changes:
                    change = changes.popleft()
                    event = _event(change, wanted)
                    if event is not None:
                        yield event
                bell = trio.Event()
                await bell.wait()
        finally:
            unsubscribe()

    def _kind(self, res: Resource) -> Kind:
        kind = self._cluster.catalogue.of(res.api_version, res.kind)
        if kind is None:
            raise NotFound(404, "NotFound", f"the API server does not serve {res.qualified}")
        return kind

    def _token(self, request: KubeObject) -> KubeObject:
        metadata, spec = request["metadata"], request["spec"]
        account = self._cluster.get(
            self._kind(SERVICE_ACCOUNTS), metadata["namespace"], metadata["name"]
        )
        reference = spec["boundObjectRef"]
        pod = self._cluster.get(self._kind(PODS), metadata["namespace"], reference["name"])
        return {"status": self._tokens.issue(account, request, pod, int(time.time()))}


def _selector(field_selector: str) -> Callable[[KubeObject], bool]:
    field, _, value = field_selector.partition("=")
    if not field:
        return lambda obj: True
    assert field == "spec.nodeName", field
    return lambda obj: bool(obj["spec"].get("nodeName") == value)


def _event(change: Change, wanted: Callable[[KubeObject], bool]) -> WatchEvent | None:
    """The change as seen through a selector: entering it is ADDED, leaving it DELETED."""
    was = change.old is not None and wanted(change.old)
    now = change.kind != "DELETED" and wanted(change.object)
    if now:
        kind = EventKind.MODIFIED if was else EventKind.ADDED
        return WatchEvent(kind, change.object, change.old)
    return WatchEvent(EventKind.DELETED, change.object, change.old) if was else None


def _translated(action: Callable[[], T]) -> T:
    """Run an action; the server's refusals become the client's errors."""
    try:
        return action()
    except ApiError as error:
        refused = _ERRORS.get(error.code, KubeError)
        raise refused(error.code, error.reason, error.message) from error
