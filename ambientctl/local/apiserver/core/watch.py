"""One watch: from the store's changes to the lines that its client gets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from ambientctl.local.apiserver.core.events import present
from ambientctl.local.apiserver.core.kinds import Kind
from ambientctl.local.apiserver.core.selectors import Predicate
from ambientctl.local.apiserver.core.status import Object, bad_request, expired
from ambientctl.local.apiserver.core.store import Change, Store

BACKLOG_LINES: Final = 10_000
"""A client that reads this much too slowly is told to list again (410)."""
BOOKMARK_EVERY_S: Final = 60.0
TIMEOUT_S: Final = 3600.0
"""How long a watch may last that names no timeoutSeconds."""

Dress = Callable[[Object, bool], Object]
"""How an object goes out: (object, is it the first of the stream?) to what is sent."""


class WatchOptions(NamedTuple):
    """What the client asked for."""

    namespace: str
    wanted: Predicate
    revision: str
    """Start after this; empty or ``0``: begin with everything there is."""
    bookmarks: bool = False
    initial_events: bool = False
    """sendInitialEvents: end the first part with an annotated bookmark."""
    timeout_s: float = TIMEOUT_S


class Watch:
    """Lines wait in ``lines``; ``wake`` is called when the first of them comes."""

    def __init__(
        self, kind: Kind, store: Store, options: WatchOptions, dress: Dress | None = None
    ) -> None:
        self.options = options
        self.lines: deque[bytes] = deque()
        self.wake: Callable[[], object] = lambda: None
        self.ended = False
        self._kind = kind
        self._store = store
        self._dress = dress
        self._first = True
        if options.initial_events and not options.bookmarks:
            raise bad_request("sendInitialEvents needs allowWatchBookmarks")
        for change in self._beginning():
            self._follow(change)
        if options.initial_events:
            self.lines.append(self._bookmark({"k8s.io/initial-events-end": "true"}))
        self.close = store.subscribe(kind.key, self._follow)

    def _beginning(self) -> Iterator[Change]:
        """What comes before live changes: everything, or what was missed since a revision."""
        revision = self.options.revision
        if revision in {"", "0"} or self.options.initial_events:
            for obj in self._store.objects(self._kind.key, self.options.namespace):
                yield Change(self._kind.key, "ADDED", int(obj["metadata"]["resourceVersion"]), obj)
            return
        if not revision.isdigit():
            raise bad_request(f"invalid resourceVersion {revision!r}: must be a number")
        yield from self._store.since(self._kind.key, int(revision))

    def _follow(self, change: Change) -> None:
        """Subscriber: put a line in front of the client, or end a watch that nobody reads."""
        kind = self._seen_as(change)
        if kind is None or self.ended:
            return
        if len(self.lines) >= BACKLOG_LINES:
            self.lines.append(self.error(expired("the client reads its watch too slowly").body()))
            self.ended = True
        else:
            self.lines.append(self._line(change, kind))
        self.wake()

    def _seen_as(self, change: Change) -> str | None:
        """What the change is to a client that sees only what its selectors take."""
        namespace = self.options.namespace
        if namespace and change.object["metadata"].get("namespace") != namespace:
            return None
        wanted = self.options.wanted
        before = change.old is not None and wanted(change.old)
        after = change.kind != "DELETED" and wanted(change.object)
        if after:
            return "MODIFIED" if before else "ADDED"
        return "DELETED" if before else None

    def _line(self, change: Change, kind: str) -> bytes:
        """The change as this client sees it; undressed lines are shared by all watchers."""
        obj = change.object
        if self._dress is None and obj.get("apiVersion") == self._kind.api_version:
            return change.encoded(kind)
        shown = present(self._kind, obj)
        if self._dress is not None:
            shown = self._dress(shown, self._first)
        self._first = False
        return msgspec.json.encode({"type": kind, "object": shown}) + b"\n"

    def bookmark(self) -> bytes | None:
        """A line that tells how far the watch has come; None when the client wants none."""
        return self._bookmark({}) if self.options.bookmarks else None

    def _bookmark(self, annotations: dict[str, str]) -> bytes:
        """An otherwise empty object with the present revision."""
        metadata: Object = {"resourceVersion": str(self._store.revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        obj: Object = {
            "kind": self._kind.kind,
            "apiVersion": self._kind.api_version,
            "metadata": metadata,
        }
        if self._dress is not None:
            obj = self._dress(obj, self._first)
        return msgspec.json.encode({"type": "BOOKMARK", "object": obj}) + b"\n"

    @staticmethod
    def error(status: Object) -> bytes:
        """The line that ends a watch with an error."""
        return msgspec.json.encode({"type": "ERROR", "object": status}) + b"\n"
