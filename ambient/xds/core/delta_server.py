"""One delta xDS stream, the server's side, without I/O: requests and changes in, responses out.

The state is per type: whether the client wants everything (wildcard, decided by its first request)
or single names, which names it holds, and the last nonce. Resources come from a ``Source``, so the
same state serves node tunnels, waypoints and on-demand clients
(envoyproxy.io, "xDS protocol: incremental xDS"; istio pilot/pkg/xds/delta.go).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

WILDCARD: Final = "*"
MAX_NAMES: Final = 100_000
"""Names that one client may subscribe to for one type; a bigger mesh asks for everything."""
MAX_NAME_CHARS: Final = 1024
"""The longest real ones have a namespace and a host name, 63 and 253 characters."""
MAX_TYPES: Final = 16
"""Types that one stream may ask for; Envoy knows about ten."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A DeltaDiscoveryRequest."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = {}
    nonce: str = ""
    error: str = ""
    """Why the client refused what it was sent (NACK); empty for everything else."""


class Sent(NamedTuple):
    """A resource as it goes out; ``version`` is a hash of its content."""

    name: str
    version: str
    body: bytes
    aliases: tuple[str, ...] = ()


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A DeltaDiscoveryResponse."""

    type_url: str
    nonce: str
    resources: tuple[Sent, ...] = ()
    removed: tuple[str, ...] = ()


class Source(Protocol):
    """The resources of one type at one moment, as one client may see them."""

    def names(self) -> Collection[str]:
        """Everything there is."""

    def get(self, name: str) -> Sent | None:
        """One resource by its own name."""

    def find(self, name: str) -> Iterable[str]:
        """The names behind a subscription: itself, or those an alias stands for."""

    def unasked(self) -> Iterable[str]:
        """Names that a client which asks by name gets without asking, such as its own node's."""


class TypeState(msgspec.Struct):
    """What the client has of one type; also what ``proxy-status`` shows."""

    wildcard: bool
    subscribed: set[str] = set()
    """What a client that asks by name asked for."""
    held: dict[str, str] = {}
    """Name to version of what it was sent; kept only where removals need it."""
    sent_nonce: str = ""
    acked_nonce: str = ""
    error: str = ""

    @property
    def status(self) -> str:
        """As istioctl shows it."""
        if not self.sent_nonce:
            return "NOT_SENT"
        if self.error:
            return "ERROR"
        return "SYNCED" if self.sent_nonce == self.acked_nonce else "STALE"


class StreamRefusedError(Exception):
    """The client asks for what it may not have; ends the stream."""


class DeltaStream:
    """The state of one stream. ``sources`` gives the present resources by type URL."""

    def __init__(self, prefix: str, tracked: Collection[str] = ()) -> None:
        """``prefix`` makes nonces unique; for ``tracked`` types the server compares what a
        client holds with the whole source, because no list of changed names exists for them.
        """
        self._prefix = prefix
        self._tracked = frozenset(tracked)
        self._count = 0
        self.types: dict[str, TypeState] = {}
        self.stale_nonces = 0
        self.rejects = 0

    def request(self, request: Request, source: Source) -> Response | None:
        """Take in a request; the answer, if one is due. Raises StreamRefusedError."""
        state = self.types.get(request.type_url)
        if state is None:
            return self._first(request, source)
        if request.nonce and request.nonce != state.sent_nonce:
            self.stale_nonces += 1
            return None
        if request.error:
            self.rejects += 1
            state.error = request.error
            return None
        if request.nonce:
            state.acked_nonce = request.nonce
            state.error = ""
        if not request.subscribe and not request.unsubscribe:
            return None
        return self._resubscribe(state, request, source)

    def changed(self, type_url: str, names: Collection[str], source: Source) -> Response | None:
        """Resources have changed; what the client has to be told, if anything."""
        state = self.types.get(type_url)
        if state is None:
            return None
        if type_url in self._tracked:
            return self._difference(type_url, state, source)
        if state.wildcard:
            wanted = list(names)
        else:
            wanted = [name for name in names if name in state.held]
            # What a subscription stands for may have grown: a new pod behind a known address.
            grown = {
                name
                for asked in state.subscribed
                for name in source.find(asked)
                if name not in state.held
            }
            wanted += sorted(
                grown.union(name for name in source.unasked() if name not in state.held)
            )
        if not wanted:
            return None
        return self._respond(type_url, state, wanted, source)

    def _first(self, request: Request, source: Source) -> Response:
        """The first request of a type is always answered, even with nothing."""
        asked = {*request.subscribe, *request.initial_versions} - set(request.unsubscribe)
        wildcard = WILDCARD in asked or not request.subscribe
        if len(self.types) >= MAX_TYPES or len(request.type_url) > MAX_NAME_CHARS:
            raise StreamRefusedError(f"more than {MAX_TYPES} types on one stream")
        state = TypeState(wildcard=wildcard)
        self.types[request.type_url] = state
        known = dict(request.initial_versions)
        if wildcard:
            names = source.names()
            removed = [name for name in known if name not in names]
            return self._respond(request.type_url, state, names, source, known, removed)
        self._subscribe(state, asked - {WILDCARD})
        return self._by_name(request.type_url, state, state.subscribed, source, known)

    def _resubscribe(self, state: TypeState, request: Request, source: Source) -> Response | None:
        dropped = set(request.unsubscribe)
        state.subscribed -= dropped
        for name in dropped:
            state.held.pop(name, None)
        added = {name for name in request.subscribe if name != WILDCARD} - dropped
        if state.wildcard:
            # It has everything already; asking again for a name means: send it again.
            if not added:
                return None
            missing = [name for name in added if source.get(name) is None]
            there = added.difference(missing)
            return self._respond(request.type_url, state, there, source, {}, missing)
        self._subscribe(state, added)
        return self._by_name(request.type_url, state, added, source, {})

    def _subscribe(self, state: TypeState, names: Iterable[str]) -> None:
        added = set(names)
        if any(len(name) > MAX_NAME_CHARS for name in added):
            raise StreamRefusedError(f"a name longer than {MAX_NAME_CHARS} characters")
        state.subscribed |= added
        if len(state.subscribed) > MAX_NAMES:
            raise StreamRefusedError(f"more than {MAX_NAMES} names; subscribe to all of them")

    def _by_name(
        self,
        type_url: str,
        state: TypeState,
        asked: Iterable[str],
        source: Source,
        known: Mapping[str, str],
    ) -> Response:
        """What these subscriptions stand for; a name behind which nothing is counts as removed."""
        wanted: dict[str, None] = {}
        missing = []
        for name in sorted(asked):
            found = tuple(source.find(name))
            wanted |= dict.fromkeys(found)
            if not found:
                missing.append(name)
        wanted |= dict.fromkeys(name for name in source.unasked() if name not in state.held)
        return self._respond(type_url, state, wanted, source, known, missing)

    def _respond(
        self,
        type_url: str,
        state: TypeState,
        names: Iterable[str],
        source: Source,
        known: Mapping[str, str] | None = None,
        removed: Iterable[str] = (),
    ) -> Response:
        """Send ``names``: those that are gone as removed, those in ``known`` only if different."""
        resources, gone = [], list(removed)
        remember = not state.wildcard or type_url in self._tracked
        for name in names:
            found = source.get(name)
            if found is None:
                gone.append(name)
                state.held.pop(name, None)
                continue
            if remember:
                state.held[name] = found.version
            if known is None or known.get(name) != found.version:
                resources.append(found)
        return self._made(type_url, state, resources, gone)

    def _difference(self, type_url: str, state: TypeState, source: Source) -> Response | None:
        names = source.names()
        wanted = names if state.wildcard else [one for one in names if one in state.subscribed]
        changed = [
            found
            for name in wanted
            if (found := source.get(name)) is not None and state.held.get(name) != found.version
        ]
        gone = [name for name in state.held if name not in names]
        if not changed and not gone:
            return None
        for found in changed:
            state.held[found.name] = found.version
        for name in gone:
            del state.held[name]
        return self._made(type_url, state, changed, gone)

    def _made(
        self, type_url: str, state: TypeState, resources: Iterable[Sent], removed: Iterable[str]
    ) -> Response:
        self._count += 1
        state.sent_nonce = f"{self._prefix}{self._count}"
        return Response(
            type_url=type_url,
            nonce=state.sent_nonce,
            resources=tuple(resources),
            removed=tuple(dict.fromkeys(removed)),
        )
