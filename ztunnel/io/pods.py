"""Which pods this node's tunnel serves: the node agent's wishes turned into running proxies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import trio

from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.core.readiness import Readiness
from ambient.telemetry.io.logs import get_logger

POD_MANAGER: Final = "workload proxy manager"
"""Readiness: the agent has named all pods and each of them is served (Istio's name for it)."""
RETRY_S: Final = 5.0  # ztunnel's in-pod retry

log = get_logger("pods")


class PodStartError(Exception):
    """A pod's proxy could not be started; it stays pending and is tried again."""


class SnapshotError(ValueError):
    """The agent said something that the state of the session does not allow."""


class PodProxy(Protocol):
    """What runs for one pod."""

    @property
    def info(self) -> Add:
        """As the agent described the pod."""

    @property
    def netns(self) -> Netns:
        """Where the pod lives."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until stopped; started once every port is bound. Raises PodStartError first."""

    def stop(self, drain_s: float) -> None:
        """Accept no more; open connections get ``drain_s`` to end."""

    def announce(self) -> None:
        """The agent has changed how it redirects, and may not know the listeners."""


class Pods:
    """Owner of every pod's proxy. Between sessions with the agent all of them live on."""

    def __init__(
        self,
        make: Callable[[Add, Netns], PodProxy],
        readiness: Readiness,
        drain_s: float,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._make = make
        self._readiness = readiness
        self._drain_s = drain_s
        self._retry_s = retry_s
        self._running: dict[str, PodProxy] = {}
        self._pending: dict[str, trio.CancelScope] = {}
        self._named: set[str] = set()
        self._snapshot_done = False
        self._draining = False
        self._nursery: trio.Nursery | None = None
        self._stop_running = trio.Event()
        self._ended = trio.Event()
        self.started = 0
        self.stopped = 0

    @property
    def running(self) -> dict[str, PodProxy]:
        """Pods that are served, by pod UID; not to be changed."""
        return self._running

    @property
    def pending(self) -> int:
        """How many pods wait for another try."""
        return len(self._pending)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the proxies until ``drain`` and the last of them is gone."""
        self._readiness.wait_for(POD_MANAGER)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._stop_running.wait()
        finally:
            self._nursery = None
            self._ended.set()

    async def finished(self) -> None:
        """Wait for the end of ``run``."""
        await self._ended.wait()

    def drain(self) -> None:
        """Stop every pod; ``run`` returns when their connections have ended."""
        self._draining = True
        self._readiness.wait_for(POD_MANAGER)
        for uid in list(self._pending):
            self._forget_pending(uid)
        for uid in list(self._running):
            self._stop(uid, self._drain_s)
        self._stop_running.set()

    def begin_session(self) -> None:
        """A new conversation with the agent: it will name every pod again."""
        self._readiness.wait_for(POD_MANAGER)
        self._named.clear()
        self._snapshot_done = False

    async def add(self, info: Add, netns: Netns) -> None:
        """Serve a pod; returns once its ports are bound. Takes over ``netns``.

        Raises PodStartError where that failed; then the pod is tried again until it is deleted.
        """
        nursery = self._nursery
        if nursery is None or self._draining:
            netns.close()
            raise PodStartError("the tunnel is shutting down")
        self._named.add(info.uid)
        self._forget_pending(info.uid)
        present = self._running.get(info.uid)
        if present is not None:
            if present.netns.key == netns.key:
                netns.close()
                present.announce()
                return
            self._stop(info.uid, 0.0)
        try:
            self._check_claim(info, netns)
            await nursery.start(self._own, self._make(info, netns))
        except PodStartError as error:
            scope = trio.CancelScope()
            self._pending[info.uid] = scope
            nursery.start_soon(self._retry, info, netns, scope)
            self._update_readiness()
            log.warning(Event.POD_FAILED, pod=_name(info), error=str(error))
            raise
        except BaseException:
            netns.close()
            raise

    def keep(self, uid: str) -> None:
        """The pod stays as it is. Raises SnapshotError after the snapshot."""
        if self._snapshot_done:
            raise SnapshotError("keep after snapshot_sent")
        self._named.add(uid)

    def delete(self, uid: str) -> None:
        """The pod left the mesh: accept no more, let its connections end. Unknown uids are fine."""
        self._named.discard(uid)
        self._forget_pending(uid)
        if self._snapshot_done:
            self._stop(uid, self._drain_s)
        self._update_readiness()

    def snapshot_sent(self) -> None:
        """Every pod has been named; the others are gone. Raises SnapshotError when repeated."""
        if self._snapshot_done:
            raise SnapshotError("snapshot_sent twice")
        self._snapshot_done = True
        for uid in [uid for uid in self._running if uid not in self._named]:
            self._stop(uid, self._drain_s)
        for uid in [uid for uid in self._pending if uid not in self._named]:
            self._forget_pending(uid)
        self._update_readiness()

    async def _own(self, proxy: PodProxy, *, task_status: trio.TaskStatus[None]) -> None:
        """Hold a proxy in the books for as long as it accepts, and its namespace until it ends."""
        uid = proxy.info.uid
        relay: _Started = _Started(task_status, lambda: self._enter(uid, proxy))
        await proxy.run(task_status=relay)
        if self._running.get(uid) is proxy:
            del self._running[uid]
        self.stopped += 1
        proxy.netns.close()
        log.info(Event.POD_LEFT, pod=_name(proxy.info))

    def _enter(self, uid: str, proxy: PodProxy) -> None:
        self._running[uid] = proxy
        self.started += 1
        log.info(Event.POD_JOINED, pod=_name(proxy.info))

    async def _retry(self, info: Add, netns: Netns, scope: trio.CancelScope) -> None:
        served = False
        try:
            with scope:
                while not served:
                    await trio.sleep(self._retry_s)
                    try:
                        assert self._nursery is not None  # we run in it
                        self._check_claim(info, netns)
                        await self._nursery.start(self._own, self._make(info, netns))
                        served = True
                    except PodStartError as error:
                        log.warning(Event.POD_FAILED, pod=_name(info), error=str(error))
        finally:
            if not served:
                netns.close()
            if self._pending.get(info.uid) is scope:
                del self._pending[info.uid]
        self._update_readiness()

    def _check_claim(self, info: Add, netns: Netns) -> None:
        """A namespace is one pod's. Raises PodStartError where another one has it."""
        for uid, proxy in self._running.items():
            if uid != info.uid and proxy.netns.key == netns.key:
                raise PodStartError(
                    f"network namespace {netns.key[1]} of pod {_name(info)} (uid {info.uid}) is "
                    f"already served as that of {_name(proxy.info)} (uid {uid})"
                )

    def _stop(self, uid: str, drain_s: float) -> None:
        proxy = self._running.pop(uid, None)
        if proxy is not None:
            proxy.stop(drain_s)

    def _forget_pending(self, uid: str) -> None:
        scope = self._pending.pop(uid, None)
        if scope is not None:
            scope.cancel()

    def _update_readiness(self) -> None:
        if self._snapshot_done and not self._pending and not self._draining:
            self._readiness.done(POD_MANAGER)
        else:
            self._readiness.wait_for(POD_MANAGER)


class _Started:
    """A task status that does one thing more when the task has started."""

    def __init__(self, inner: trio.TaskStatus[None], then: Callable[[], None]) -> None:
        self._inner = inner
        self._then = then

    def started(self, value: None = None) -> None:
        self._then()
        self._inner.started(value)


def _name(info: Add) -> str:
    return f"{info.namespace}/{info.name}"
