"""The node agent's wishes, each passed on to the worker whose share the pod is in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import trio

from ambient.net.core.wire import Add
from ambient.net.io.netns import Netns
from ambient.net.io.zds_link import Workload
from ambient.telemetry.core.readiness import Readiness
from ztunnel.core.shares import worker_of
from ztunnel.io.pods import POD_MANAGER, PodStartError, SnapshotError
from ztunnel.io.worker import Worker
from ztunnel.io.zds import FAILURE


class Shares:
    """Holds every pod's namespace, so that a worker that is started again gets its pods back.

    ``nursery`` runs what the agent need not wait for.
    """

    def __init__(
        self, workers: Sequence[Worker], readiness: Readiness, nursery: trio.Nursery
    ) -> None:
        self._workers = workers
        self._readiness = readiness
        self._nursery = nursery
        self._named: set[str] = set()
        self._snapshot_done = False
        readiness.wait_for(POD_MANAGER)

    def begin_session(self) -> None:
        """A new conversation with the agent: it will name every pod again."""
        self._readiness.wait_for(POD_MANAGER)
        self._named.clear()
        self._snapshot_done = False

    async def add(self, info: Add, netns: Netns) -> None:
        """Have a pod served. Takes over ``netns``. Raises PodStartError.

        The worker tries again by itself where it failed.
        """
        self._named.add(info.uid)
        worker = self._worker(info.uid)
        present = worker.books.get(info.uid)
        again = present is not None and present.key == netns.key
        if again:
            netns.close()
        else:
            worker.books[info.uid] = Workload(*info, netns)
            _release(present)
        error = await worker.sync(info.uid, again=again)
        if error:
            raise PodStartError(error.removeprefix(FAILURE))

    def keep(self, uid: str) -> None:
        """The pod stays as it is. Raises SnapshotError after the snapshot."""
        if self._snapshot_done:
            raise SnapshotError("keep after snapshot_sent")
        self._named.add(uid)

    def delete(self, uid: str) -> None:
        """The pod has left; unknown ones are fine."""
        self._named.discard(uid)
        if self._snapshot_done:
            self._remove(uid)

    def snapshot_sent(self) -> None:
        """Every pod has been named; the others are gone. Raises SnapshotError when repeated."""
        if self._snapshot_done:
            raise SnapshotError("snapshot_sent twice")
        self._snapshot_done = True
        for worker in self._workers:
            for uid in worker.books.keys() - self._named:
                self._remove(uid)
        self._readiness.done(POD_MANAGER)

    def close(self) -> None:
        """Let go of the namespaces."""
        for worker in self._workers:
            for workload in worker.books.values():
                _release(workload)
            worker.books.clear()

    def _worker(self, uid: str) -> Worker:
        return self._workers[worker_of(uid, len(self._workers))]

    def _remove(self, uid: str) -> None:
        worker = self._worker(uid)
        _release(worker.books.pop(uid, None))
        if worker.serving:
            self._nursery.start_soon(_tell, worker, uid)


async def _tell(worker: Worker, uid: str) -> None:
    with suppress(PodStartError):  # it has ended, and the next one is not told of this pod at all
        await worker.sync(uid)


def _release(workload: Workload | None) -> None:
    if workload is not None and workload.netns is not None:
        workload.netns.close()
