"""The keys of token issuers: fetched ahead of need, renewed, and kept through outages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import trio

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core.json_web_token import KeySet, read_keys
from waypoint.core.key_freshness import KeyFreshness
from waypoint.core.providers import Address
from waypoint.core.request_authentication import KeySource, fetchable
from waypoint.io.fiber import in_task
from waypoint.io.mesh_call import CallError, MeshCalls, make_request
from waypoint.io.web_fetch import FetchError, WebFetch

FORGET_AFTER_S: Final = 7 * 24 * 3600.0
"""Keys that no policy names any more (Istio: 7 days)."""

log = get_logger("waypoint")


class KeySettings(NamedTuple):
    """How old keys may become, and a file with more CA certificates."""

    refresh_s: float = 1200.0
    extra_ca_file: str = ""


class KeyStore:
    """``run`` has to be running. A source is fetched by one task at a time."""

    def __init__(self, calls: MeshCalls, settings: KeySettings) -> None:
        self._calls = calls
        self._web = WebFetch(settings.extra_ca_file)
        self._refresh_s = settings.refresh_s
        self._known: dict[KeySource, KeyFreshness] = {}
        self._fetching: dict[KeySource, trio.Event] = {}
        self._wanted: frozenset[KeySource] = frozenset()
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None

    def want(self, sources: Iterable[KeySource]) -> None:
        """The sources that policies name now."""
        self._wanted = frozenset(sources)
        self._news.set()

    def keys(self, source: KeySource) -> KeySet | None:
        """What is known; None where nothing was ever fetched."""
        known = self._known.get(source)
        return known.keys if known is not None else None

    async def ensure(self, source: KeySource) -> None:
        """Wait for the first answer, or the first failure."""
        known = self._known.get(source)
        if known is None or (known.keys is None and trio.current_time() >= known.due_s):
            async with in_task():
                await self._fetch(source)

    async def renew(self, source: KeySource) -> bool:
        """Fetch again for a token whose key is unknown; False where it is too early for that."""
        known = self._known.get(source)
        if known is not None and not known.may_rotate(trio.current_time()):
            return False
        async with in_task():
            await self._fetch(source)
        return True

    async def run(self) -> None:
        """Fetch what is due until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                self._news = trio.Event()
                due_s = self._begin_due(nursery)
                with trio.move_on_at(due_s):
                    await self._news.wait()

    def _begin_due(self, nursery: trio.Nursery) -> float:
        """Start what is due; when to look again."""
        now_s = trio.current_time()
        for source in [*self._known]:
            known = self._known[source]
            if source not in self._wanted and now_s - known.tried_s > FORGET_AFTER_S:
                del self._known[source]
        next_s = now_s + self._refresh_s
        for source in self._wanted - self._fetching.keys():
            state = self._known.get(source)
            if state is None or now_s >= state.due_s:
                self._begin(source, nursery)
            else:
                next_s = min(next_s, state.due_s)
        return next_s

    async def _fetch(self, source: KeySource) -> None:
        """Wait for a fetch, which goes on when whoever waits is gone."""
        done = self._fetching.get(source)
        if done is None:
            if self._nursery is None:
                raise RuntimeError("the key store does not run")
            done = self._begin(source, self._nursery)
        await done.wait()

    def _begin(self, source: KeySource, nursery: trio.Nursery) -> trio.Event:
        done = self._fetching[source] = trio.Event()
        nursery.start_soon(self._once, source, done)
        return done

    async def _once(self, source: KeySource, done: trio.Event) -> None:
        known = self._known.setdefault(source, KeyFreshness(self._refresh_s))
        try:
            keys = await self._document(source)
            known.fetched(keys, trio.current_time())
        except (FetchError, CallError) as error:
            known.failed(str(error), trio.current_time())
        finally:
            del self._fetching[source]
            done.set()
            self._news.set()
        if known.error:
            log.warning(Event.JWKS_FAILED, url=source.url, error=known.error)
        else:
            log.info(Event.JWKS_FETCHED, url=source.url, keys=len(keys.keys))

    async def _document(self, source: KeySource) -> KeySet:
        url = source.url
        if source.discover:
            try:
                found = msgspec.json.decode(await self._get(url, source.timeout_s))
                url = found["jwks_uri"]
            except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                raise FetchError(f"{url}: names no jwks_uri") from None
            if not isinstance(url, str) or not fetchable(url):
                raise FetchError(f"{source.url}: jwks_uri {url!r} is no URL")
        return read_keys(await self._get(url, source.timeout_s))

    async def _get(self, url: str, timeout_s: float) -> bytes:
        """Services of the mesh are called through it, everything else as the web is."""
        parts = urlsplit(url)
        at = Address(parts.hostname or "", parts.port or 80)
        if parts.scheme != "http" or not self._calls.knows(at):
            return await self._web.get(url, timeout_s)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = make_request("GET", target, parts.netloc)
        answer = await self._calls.http(at, request, b"", timeout_s)
        if answer.status != 200:
            raise FetchError(f"{url}: status {answer.status}")
        return answer.body
