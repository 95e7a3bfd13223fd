"""Follow a collection: list, watch from there, and list again when the server forgot where."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpcore
import trio

from ambient.api.errors import MeshError
from ambient.kube.core.errors import KubeError, NotFound, error_from
from ambient.kube.core.resources import Resource
from ambient.kube.core.watch import Follower, WatchBroken, WatchEvent
from ambient.kube.io.client import HTTP_ERRORS, KubeClient
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

WATCH_S: Final = 300
"""How long one watch is asked to last; client-go takes 5 to 10 minutes."""
FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 10.0
QUEUED_EVENTS: Final = 64
"""A slow reader stops the watch from being read."""

log = get_logger("kube")


def follow(
    kube: KubeClient,
    res: Resource,
    *,
    namespace: str | None = None,
    label_selector: str = "",
    field_selector: str = "",
    contact: Callable[[bool], None] | None = None,
) -> trio.MemoryReceiveChannel[WatchEvent]:
    """Events of a collection, for as long as the client lives.

    Every object comes as ADDED first, then SYNCED once; after a lost connection only the
    differences follow. Failures are logged and tried again, they never end the iteration.
    Closing the channel (``async with``, or ``aclose``) ends the watch sooner. ``contact`` is told
    whether the server answers: what is known may be out of date while it does not.
    """
    send, receive = trio.open_memory_channel[WatchEvent](QUEUED_EVENTS)
    params = {"labelSelector": label_selector, "fieldSelector": field_selector}
    # A task of the client's, not an async generator: a reader may leave at any point.
    watch = _Watch(kube, res, namespace, params)
    if contact is not None:
        watch.contact = contact
    kube.start_soon(watch.run, send)
    return receive


class _Watch:
    def __init__(
        self, kube: KubeClient, res: Resource, namespace: str | None, params: dict[str, str]
    ) -> None:
        self._kube = kube
        self._res = res
        self._namespace = namespace
        self._params = {key: value for key, value in params.items() if value}
        self._known = Follower()
        self._wait_s = FIRST_WAIT_S
        self.contact: Callable[[bool], None] = lambda _: None

    async def run(self, out: trio.MemorySendChannel[WatchEvent]) -> None:
        """Until the reader or the client is gone."""
        need_list = True
        async with out:
            try:
                while True:
                    need_list = await self._once(out, need_list)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _once(self, out: trio.MemorySendChannel[WatchEvent], need_list: bool) -> bool:
        """List if needed, then watch until that ends; whether to list next time."""
        try:
            if need_list:
                await self._list(out)
                need_list = False
            await self._watch(out)
            self._wait_s = FIRST_WAIT_S
        except WatchBroken as broken:
            need_list = need_list or broken.gone
            await self._back_off(broken)
        except NotFound as error:
            # The kind is not installed (its CRD is missing): that is an empty collection.
            need_list = True
            self.contact(True)
            news = bool(self._known.objects) or not self._known.synced
            for event in self._known.relisted((), ""):
                await out.send(event)
            await self._back_off(error, quietly=not news)
        except KubeError as error:
            need_list = need_list or error.status == 410
            self.contact(error.status < 500)
            await self._back_off(error)
        except MeshError as error:
            self.contact(False)
            await self._back_off(error)
        return need_list

    async def _list(self, out: trio.MemorySendChannel[WatchEvent]) -> None:
        items, version = await self._kube.list_at(self._res, self._namespace, self._params)
        self.contact(True)
        for event in self._known.relisted(items, version):
            await out.send(event)

    async def _watch(self, out: trio.MemorySendChannel[WatchEvent]) -> None:
        """One watch request. Raises WatchBroken, KubeError or UnavailableError."""
        path = self._kube.served(self._res).path(self._namespace)
        params = {
            **self._params,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._known.resource_version,
            "timeoutSeconds": str(WATCH_S + random.randrange(WATCH_S // 10)),
        }
        self._known.resumed()
        try:
            async with self._kube.stream(path, params, await self._kube.headers()) as answer:
                if answer.status >= 400:
                    raise error_from(answer.status, await answer.aread(), f"watch {path}")
                self.contact(True)
                await self._read(answer, out)
        except HTTP_ERRORS as error:
            raise self._kube.unreachable(error) from error

    async def _read(
        self, answer: httpcore.Response, out: trio.MemorySendChannel[WatchEvent]
    ) -> None:
        chunks = answer.aiter_stream()
        try:
            async for chunk in chunks:
                for event in self._known.feed(chunk):
                    await out.send(event)
                self._wait_s = FIRST_WAIT_S
        finally:
            # httpcore nests generators that nobody can close from outside; on a closed connection
            # the innermost raises, which ends them all in order.
            with trio.CancelScope(shield=True):
                await answer.aclose()
                await _exhaust(chunks)

    async def _back_off(self, error: Exception, *, quietly: bool = False) -> None:
        tell = log.debug if quietly else log.warning
        tell(
            Event.KUBE_WATCH_RETRY,
            resource=self._res.qualified,
            error=str(error),
            hint=getattr(error, "hint", ""),
            wait_s=round(self._wait_s, 2),
        )
        await trio.sleep(self._wait_s * random.uniform(0.75, 1.25))
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)


async def _exhaust(chunks: AsyncIterator[bytes]) -> None:
    try:
        async for _ in chunks:
            pass
    except (*HTTP_ERRORS, trio.ClosedResourceError, RuntimeError):
        return
