"""The loop that every controller runs in: changes give keys, a key is looked at, commands follow.

The store is in the same process and a turn has no await in it, so a controller always decides on
the present state and never meets a conflict with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import trio

from ambient.telemetry.io.logs import get_logger
from ambientctl.local.apiserver.core.cluster import Cluster
from ambientctl.local.apiserver.core.kinds import StorageKey
from ambientctl.local.apiserver.core.status import ApiError
from ambientctl.local.apiserver.core.store import Change
from ambientctl.local.controllers.commands import Command, perform

Key = tuple[str, str]
"""(namespace, name) of the object that a controller looks after."""

RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 30.0

log = get_logger("local")


class Controller(NamedTuple):
    """One controller: what wakes it, for which key, and what it decides."""

    name: str
    watches: tuple[StorageKey, ...]
    """Resources whose changes may matter; empty: all of them."""
    keys: Callable[[Cluster, Change], Iterable[Key]]
    decide: Callable[[Cluster, Key], Iterable[Command]]


async def run_controller(cluster: Cluster, controller: Controller) -> None:
    """Run one controller until cancelled."""
    async with trio.open_nursery() as nursery:
        work = _Work(cluster, controller, nursery)
        closers = [
            cluster.store.subscribe(key, work.notice) for key in (controller.watches or (None,))
        ]
        try:
            work.start()
            while True:
                await work.turn()
        finally:
            for close in closers:
                close()


class _Work:
    """The keys that wait, each at most once, and how often a key has failed in a row."""

    def __init__(self, cluster: Cluster, controller: Controller, nursery: trio.Nursery) -> None:
        self._cluster = cluster
        self._controller = controller
        self._nursery = nursery
        self._waiting: dict[Key, None] = {}
        self._failures: dict[Key, int] = {}
        self._woken = trio.Event()

    def notice(self, change: Change) -> None:
        """Subscriber: remember which keys the change concerns."""
        for key in self._controller.keys(self._cluster, change):
            self._add(key)

    def _add(self, key: Key) -> None:
        self._waiting[key] = None
        self._woken.set()

    def start(self) -> None:
        """Treat everything that is already there as just added."""
        store = self._cluster.store
        for resource in self._controller.watches or store.resources():
            for obj in store.objects(resource):
                self.notice(Change(resource, "ADDED", int(obj["metadata"]["resourceVersion"]), obj))

    async def turn(self) -> None:
        """Look at one key, or wait for one."""
        if not self._waiting:
            self._woken = trio.Event()
            await self._woken.wait()
            return
        key = next(iter(self._waiting))
        del self._waiting[key]
        try:
            for command in self._controller.decide(self._cluster, key):
                perform(self._cluster, command, self._controller.name)
        except ApiError as error:
            self._retry(key, error.message)
        except Exception as error:
            log.exception("controller.failed", controller=self._controller.name, key=key)
            self._retry(key, repr(error))
        else:
            self._failures.pop(key, None)
        await trio.lowlevel.checkpoint()

    def _retry(self, key: Key, reason: str) -> None:
        """Look at the key again, later after every failure in a row."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay_s = min(RETRY_FIRST_S * 2**failures, RETRY_MAX_S)
        namespace, name = key
        log.warning(
            "controller.refused",
            controller=self._controller.name,
            namespace=namespace,
            name=name,
            reason=reason,
            retry_s=delay_s,
        )
        self._nursery.start_soon(self._add_later, key, delay_s)

    async def _add_later(self, key: Key, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._add(key)


def key_of(change: Change) -> Key:
    """The key of the changed object itself."""
    metadata = change.object["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
