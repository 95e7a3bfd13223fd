"""The certificates of the identities that this process speaks for.

One task for each identity fetches, renews at half life and backs off after failures. While a
renewal fails the old certificate serves until it expires; afterwards callers are held for a few
seconds in case the CA comes back, then fail with its last error.
"""

from __future__ import annotations

import math
import random
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from ambient.api.errors import MeshError
from ambient.api.spiffe import Identity
from ambient.identity.core.crl import Revocation
from ambient.identity.core.csr import new_key_and_csr
from ambient.identity.core.renewal import renew_at, retry_delay_s
from ambient.identity.core.svid import Svid, SvidError, parse_svid
from ambient.identity.io.tls import make_context
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

DEFAULT_TTL_S: Final = 86_400
"""What we ask for (Istio: SECRET_TTL)."""
WARM_UP_AT_ONCE: Final = 4
"""Prefetches that run at the same time; a caller who waits never queues behind them."""
HOLD_S: Final = 5.0
"""How long callers are held once the CA has begun to fail: a retry may come in time, and then the
connection never knew. Whoever comes later fails at once."""
LONGEST_SLEEP_S: Final = 600.0
"""The wall clock may jump (suspend, time service), so the time of renewal is looked at again."""
SOONEST_RENEWAL: Final = 0.1
"""Of the life that is left."""
EARLY_SPREAD_S: Final = 5.0
"""Renewals that something has caused for all identities at once are spread over this time."""

log = get_logger("identity")


class Ca(Protocol):
    """Whoever signs: the real client, or a stand-in in tests."""

    async def sign(
        self, identity: Identity, csr_pem: bytes, *, impersonate: bool, ttl_s: int
    ) -> Sequence[str]:
        """The chain in PEM; raises MeshError."""


class _Entry:
    """One identity: its current certificate or its last error, and the task that keeps it."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.svid: Svid | None = None
        self.error: MeshError | None = None
        self.failures = 0
        self.failing_since_s = math.inf
        self.answered = trio.Event()
        self.changed = trio.Event()
        """Set, and replaced, at every answer of the CA."""
        self.renew = trio.Event()
        """Set to renew before the time."""
        self.started = False
        self.scope = trio.CancelScope()
        self.contexts: dict[bool, ssl.SSLContext] = {}

    def tell(self) -> None:
        """Wake everybody who waits for an answer."""
        self.answered.set()
        self.changed.set()
        self.changed = trio.Event()


class CertStore:
    """Hands out certificates and TLS contexts; ``run`` has to be running.

    ``impersonate``: ask in the name of pods (node tunnel) instead of for ourselves (waypoint).
    """

    def __init__(
        self,
        ca: Ca,
        impersonate: bool,
        *,
        ttl_s: int = DEFAULT_TTL_S,
        revocation: Revocation | None = None,
        now: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """``revocation`` goes into every context that is handed out."""
        self._ca = ca
        self._impersonate = impersonate
        self._ttl_s = ttl_s
        self._revocation = revocation
        self._now = now
        self._jitter = jitter
        self._entries: dict[Identity, _Entry] = {}
        self._to_start, self._starts = trio.open_memory_channel[_Entry](2**31)
        self._to_warm, self._warm = trio.open_memory_channel[_Entry](2**31)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep every certificate fresh until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(WARM_UP_AT_ONCE):
                nursery.start_soon(self._warm_up)
            task_status.started()
            async for entry in self._starts:
                nursery.start_soon(self._keep, entry)

    async def svid(self, identity: Identity) -> Svid:
        """The current certificate; waits for the first answer of the CA.

        Where that is an error it waits for a better one, until ``HOLD_S`` after the first error,
        then raises the last one.
        """
        entry = self._entry(identity)
        if (svid := self._usable(entry)) is not None:
            return svid
        self._start(entry)
        await entry.answered.wait()
        with trio.move_on_at(entry.failing_since_s + HOLD_S):
            while (svid := self._usable(entry)) is None:
                if self._entries.get(identity) is not entry:
                    break  # forgotten: nobody will ask again
                await entry.changed.wait()
            else:
                return svid
        raise _copy(entry.error, identity)

    async def client_context(self, identity: Identity) -> ssl.SSLContext:
        """To dial as ``identity``; the same object until the certificate is renewed."""
        return await self._context(identity, server_side=False)

    async def server_context(self, identity: Identity) -> ssl.SSLContext:
        """To accept as ``identity``; the same object until the certificate is renewed."""
        return await self._context(identity, server_side=True)

    def prefetch(self, identity: Identity) -> None:
        """Fetch in the background, a few at a time."""
        if identity not in self._entries:
            self._to_warm.send_nowait(self._entry(identity))

    def forget(self, identity: Identity) -> None:
        """Drop the certificate and stop renewing it."""
        entry = self._entries.pop(identity, None)
        if entry is not None:
            entry.error = MeshError(f"the identity {identity} is no longer needed")
            entry.svid = None
            entry.contexts.clear()
            entry.scope.cancel()
            entry.tell()

    def renew_all(self) -> None:
        """Renew every certificate now (new roots come with it), spread over a few seconds."""
        for entry in self._entries.values():
            entry.renew.set()

    def states(self) -> dict[Identity, Svid | MeshError | None]:
        """For the admin page: a certificate, the last error, or None while fetching."""
        return {
            identity: entry.svid or entry.error for identity, entry in sorted(self._entries.items())
        }

    def failing(self) -> dict[Identity, str]:
        """Why renewals do not succeed at present, also where an old certificate still serves."""
        return {one: str(entry.error) for one, entry in self._entries.items() if entry.error}

    def _entry(self, identity: Identity) -> _Entry:
        entry = self._entries.get(identity)
        if entry is None:
            entry = self._entries[identity] = _Entry(identity)
        return entry

    def _start(self, entry: _Entry) -> None:
        if not entry.started:
            entry.started = True
            self._to_start.send_nowait(entry)

    async def _warm_up(self) -> None:
        async for entry in self._warm:
            if self._entries.get(entry.identity) is entry:
                self._start(entry)
                await entry.answered.wait()

    async def _context(self, identity: Identity, *, server_side: bool) -> ssl.SSLContext:
        svid = await self.svid(identity)
        contexts = self._entries[identity].contexts
        if server_side not in contexts:
            contexts[server_side] = make_context(svid, server_side, self._revocation)
        return contexts[server_side]

    def _usable(self, entry: _Entry) -> Svid | None:
        svid = entry.svid
        return svid if svid is not None and svid.not_after_s > self._now() else None

    async def _keep(self, entry: _Entry) -> None:
        with entry.scope:
            while True:
                entry.renew = trio.Event()
                try:
                    svid = await self._fetch(entry.identity)
                except MeshError as err:
                    delay = self._failed(entry, err)
                    await trio.sleep(delay)
                    continue
                entry.failures = 0
                entry.failing_since_s = math.inf
                entry.svid, entry.error = svid, None
                entry.contexts = {}
                entry.tell()
                log.info(
                    Event.CERT_ISSUED,
                    identity=str(entry.identity),
                    life_s=round(svid.not_after_s - self._now()),
                )
                # One that arrives late in its life (back-dated, short) must not spin the CA.
                soonest = self._now() + max(1.0, SOONEST_RENEWAL * (svid.not_after_s - self._now()))
                renewal = max(soonest, renew_at(svid, self._jitter()))
                await self._sleep_until(renewal, entry.renew)
                if entry.renew.is_set():
                    await trio.sleep(self._jitter() * EARLY_SPREAD_S)

    def _failed(self, entry: _Entry, error: MeshError) -> float:
        """Note a failure; seconds until the next attempt."""
        entry.failures += 1
        entry.failing_since_s = min(entry.failing_since_s, trio.current_time())
        delay = retry_delay_s(entry.failures, self._jitter())
        valid = self._usable(entry)
        if valid is not None:
            # Not later than the end of what still serves.
            delay = min(delay, max(1.0, valid.not_after_s - self._now()))
        log.warning(
            Event.CERT_FAILED,
            identity=str(entry.identity),
            error=str(error),
            retry_in_s=round(delay, 1),
            failures=entry.failures,
            old_certificate="serves on" if valid else "none",
        )
        entry.error = error
        entry.tell()
        return delay

    async def _fetch(self, identity: Identity) -> Svid:
        key_pem, csr_pem = new_key_and_csr(identity)
        chain = await self._ca.sign(
            identity, csr_pem, impersonate=self._impersonate, ttl_s=self._ttl_s
        )
        svid = parse_svid(identity, key_pem, chain)
        if svid.not_after_s <= self._now():
            raise SvidError(f"the CA's certificate for {identity} has already expired")
        return svid

    async def _sleep_until(self, when_s: float, sooner: trio.Event) -> None:
        # No event says that the wall clock was set, so a long wait is cut into pieces.
        while (left := when_s - self._now()) > 0 and not sooner.is_set():
            with trio.move_on_after(min(left, LONGEST_SLEEP_S)):
                await sooner.wait()


def _copy(error: MeshError | None, identity: Identity) -> MeshError:
    """An exception of its own for each caller, so that tracebacks do not pile up on one."""
    if error is None:
        return SvidError(
            f"the certificate for {identity} has expired",
            hint="the control plane has not renewed it; is it reachable?",
        )
    return type(error)(str(error), hint=error.hint)
