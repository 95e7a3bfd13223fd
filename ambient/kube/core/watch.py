"""List-then-watch without I/O: bytes and lists in, events out.

The watch protocol is a stream of JSON documents, one a line: ``{"type": ..., "object": ...}``
with the types ADDED, MODIFIED, DELETED, BOOKMARK and ERROR
(kubernetes.io, "Efficient detection of changes").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from ambient.kube.core.resources import KubeObject

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""One event holds one object; etcd refuses objects over 1.5 MiB, JSON may swell them."""


class EventKind(StrEnum):
    """What happened; SYNCED ends the first list and carries no object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    SYNCED = "SYNCED"


class WatchEvent(NamedTuple):
    """One change; ``old`` is the object before it, where there was one."""

    kind: EventKind
    object: KubeObject
    old: KubeObject | None = None


class WatchBroken(Exception):  # noqa: N818 - a state of the stream, not a failure of ours
    """The stream cannot go on; ``gone`` asks for a new list, otherwise resume."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


class LineBuffer:
    """Cuts a byte stream into lines; a half line waits for its rest."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without empty ones.

        Raises WatchBroken for a line over MAX_LINE_BYTES.
        """
        *complete, rest = data.split(b"\n")
        lines = []
        for line in complete:
            lines.append(b"".join((*self._parts, line)))
            self._parts.clear()
            self._held = 0
        if rest:
            self._parts.append(rest)
            self._held += len(rest)
        if self._held > MAX_LINE_BYTES:
            raise WatchBroken(f"a watch event is longer than {MAX_LINE_BYTES} bytes", gone=True)
        return [line for line in lines if line.strip()]


class _Envelope(msgspec.Struct):
    type: str
    object: KubeObject


_ENVELOPE = msgspec.json.Decoder(_Envelope)


class Follower:
    """What is known of one collection, and where to go on watching.

    ``resource_version`` is empty until the first list.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], KubeObject] = {}
        self.resource_version = ""
        self.synced = False
        self._lines = LineBuffer()

    def relisted(self, items: Iterable[KubeObject], resource_version: str) -> Iterator[WatchEvent]:
        """The differences between what is known and a fresh list; then SYNCED, the first time."""
        self.resource_version = resource_version
        self._lines = LineBuffer()
        fresh = {_key(item): item for item in items}
        for key in [key for key in self.objects if key not in fresh]:
            gone = self.objects.pop(key)
            yield WatchEvent(EventKind.DELETED, gone, gone)
        for key, item in fresh.items():
            old = self.objects.get(key)
            if old is not None and _version(old) == _version(item):
                continue
            self.objects[key] = item
            yield WatchEvent(EventKind.ADDED if old is None else EventKind.MODIFIED, item, old)
        if not self.synced:
            self.synced = True
            yield WatchEvent(EventKind.SYNCED, {})

    def resumed(self) -> None:
        """A new connection starts with a new line."""
        self._lines = LineBuffer()

    def feed(self, data: bytes) -> Iterator[WatchEvent]:
        """Events of the lines that ``data`` completes.

        Raises WatchBroken when the server ends the watch or sends what is no event.
        """
        for line in self._lines.feed(data):
            try:
                envelope = _ENVELOPE.decode(line)
            except msgspec.MsgspecError as error:
                raise WatchBroken(f"a watch line is no event: {error}", gone=True) from error
            event = self._apply(envelope)
            if event is not None:
                yield event

    def _apply(self, envelope: _Envelope) -> WatchEvent | None:
        item = envelope.object
        if envelope.type == "ERROR":
            # A Status object; code 410 means that our resourceVersion was compacted away.
            message = str(item.get("message") or item.get("reason") or "no reason given")
            raise WatchBroken(message, gone=item.get("code") == 410)
        self.resource_version = _version(item) or self.resource_version
        if envelope.type == "BOOKMARK":
            return None
        key = _key(item)
        if envelope.type == "DELETED":
            old = self.objects.pop(key, None)
            return WatchEvent(EventKind.DELETED, item, old)
        if envelope.type not in ("ADDED", "MODIFIED"):
            raise WatchBroken(f"unknown watch event {envelope.type!r}", gone=True)
        trim(item)
        old = self.objects.get(key)
        self.objects[key] = item
        return WatchEvent(EventKind.ADDED if old is None else EventKind.MODIFIED, item, old)


def trim(item: KubeObject) -> KubeObject:
    """Drop managedFields: nobody here reads them, and they are half of most objects."""
    item.get("metadata", {}).pop("managedFields", None)
    return item


def _key(item: KubeObject) -> tuple[str, str]:
    metadata = item.get("metadata", {})
    return metadata.get("namespace", ""), metadata.get("name", "")


def _version(item: KubeObject) -> str:
    return str(item.get("metadata", {}).get("resourceVersion", ""))
