"""What all workers of a waypoint have under way in a cluster, and whom they ejected: shared memory.

A table of records, one for each cluster with limits and one for each endpoint that is judged. Of
each record every worker says for itself that it holds it, and what it has under way: that is gone
with the worker (``forget``), and a record that nobody holds is free.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from struct import Struct
from typing import Final

import trio

from waypoint.core.host import Key
from waypoint.core.outlier import Detector, Monitor
from waypoint.core.peers import Use

RECORDS: Final = 16_384
"""Memory is taken as they are used. Where no place is left, a worker counts for itself."""
WINDOW: Final = 32
"""A key is in one of so many records."""
_KEY_BYTES: Final = 16
_RECORD: Final = Struct("=16s4I2d")
"""An endpoint's name and ``Monitor``; a cluster's name, changes and ejected ones, next sweep."""
_MONITOR: Final = Struct("=4I2d")
_CLUSTER: Final = Struct("=I4xI4xd8x")
_CHANGES: Final = Struct("=I")
_COUNTERS: Final = Struct("=3I")
_PART: Final = Struct("=5I")
"""A worker's part in a record: whether it holds it, and its ``Use``."""
_HELD: Final = Struct("=I")
_PARTS_AT: Final = _RECORD.size * RECORDS
_PARTS_BYTES: Final = _PART.size * RECORDS


def create(workers: int) -> int:
    """The descriptor of a new table; workers inherit it. It is closed as any other."""
    fd = os.memfd_create("waypoint-clusters", 0)
    os.ftruncate(fd, _PARTS_AT + workers * _PARTS_BYTES)
    return fd


def forget(fd: int, worker: int) -> None:
    """A worker has ended: nothing is under way there, and it holds nothing."""
    os.pwrite(fd, bytes(_PARTS_BYTES), _PARTS_AT + worker * _PARTS_BYTES)


class SharedClusters:
    """``fd`` is a table of ``create``, of which this process is the worker with a number."""

    def __init__(self, fd: int, worker: int) -> None:
        size = os.fstat(fd).st_size
        self.fd = fd
        self.table = mmap.mmap(fd, size)
        self.worker = worker
        workers = (size - _PARTS_AT) // _PARTS_BYTES
        self.workers = range(workers)
        self.peers = tuple(number for number in self.workers if number != worker)
        # Times are kept in the system's clock, which trio shifts for each process.
        self.shift_s = trio.current_time() - time.monotonic()

    def join(self, key: tuple[str, int, str]) -> SharedCluster | None:
        """A cluster as all workers know it; None where there is no room for it."""
        record = self.hold(f"{key}")
        return None if record is None else SharedCluster(self, f"{key}", record)

    def hold(self, name: str) -> int | None:
        """The number of a record, until ``release``; a new one where nobody held it."""
        digest = blake2b(name.encode(), digest_size=_KEY_BYTES).digest()
        start = int.from_bytes(digest[:4], "big")
        with self.locked(RECORDS):
            free = None
            for number in (at % RECORDS for at in range(start, start + WINDOW)):
                at = number * _RECORD.size
                held = any(self.holds(number, worker) for worker in self.workers)
                if held and self.table[at : at + _KEY_BYTES] == digest:
                    free = number
                    break
                if not held and free is None:
                    free = number
                    self.table[at : at + _RECORD.size] = digest + bytes(_RECORD.size - _KEY_BYTES)
            if free is not None:
                _HELD.pack_into(self.table, self.part(free, self.worker), 1)
            return free

    def release(self, number: int) -> None:
        """This worker does not need a record any more."""
        _PART.pack_into(self.table, self.part(number, self.worker), 0, 0, 0, 0, 0)

    def holds(self, number: int, worker: int) -> bool:
        """Does a worker hold a record?"""
        return bool(_HELD.unpack_from(self.table, self.part(number, worker))[0])

    @staticmethod
    def part(number: int, worker: int) -> int:
        """Where a worker's part in a record is."""
        return _PARTS_AT + worker * _PARTS_BYTES + number * _PART.size

    @contextmanager
    def locked(self, number: int) -> Iterator[None]:
        """No other worker is in such a block with the same number. A worker that dies leaves it."""
        fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, number)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, number)


class SharedCluster:
    """See ``waypoint.core.peers.Peers``."""

    def __init__(self, shared: SharedClusters, name: str, record: int) -> None:
        self._shared = shared
        self._table = shared.table
        self._name = name
        self._record = record
        self._at = record * _RECORD.size + _KEY_BYTES
        self._own_at = shared.part(record, shared.worker)
        self._others_at = [shared.part(record, worker) for worker in shared.peers]
        self._monitors: dict[Key, int | None] = {}

    @property
    def changes(self) -> int:
        """See ``Peers``."""
        changes: int = _CHANGES.unpack_from(self._table, self._at)[0]
        return changes

    def changed(self) -> None:
        """See ``Peers``."""
        _CHANGES.pack_into(self._table, self._at, (self.changes + 1) & 0xFFFFFFFF)

    @property
    def first(self) -> bool:
        """See ``Peers``."""
        shared = self._shared
        holders = (number for number in shared.workers if shared.holds(self._record, number))
        return next(holders, shared.worker) == shared.worker

    def publish(self, use: Use) -> None:
        """See ``Peers``."""
        _PART.pack_into(self._table, self._own_at, 1, *use)

    def others(self) -> Use:
        """See ``Peers``."""
        found = Use()
        for at in self._others_at:
            found = found.plus(Use(*_PART.unpack_from(self._table, at)[1:]))
        return found

    def blameless(self, key: Key) -> bool:
        """See ``Peers``."""
        at = self._monitor(key)
        return at is not None and _COUNTERS.unpack_from(self._table, at) == (0, 0, 0)

    @contextmanager
    def held(self, detector: Detector, monitors: Mapping[Key, Monitor]) -> Iterator[None]:
        """See ``Peers``."""
        with self._shared.locked(self._record):
            self._load(detector, monitors)
            yield
            self._store(detector, monitors)

    def _load(self, detector: Detector, monitors: Mapping[Key, Monitor]) -> None:
        shift_s = self._shared.shift_s
        _, ejected, next_sweep_s = _CLUSTER.unpack_from(self._table, self._at)
        if next_sweep_s:
            detector.ejected, detector.next_sweep_s = ejected, next_sweep_s + shift_s
        for key, one in monitors.items():
            at = self._monitor(key)
            if at is None:
                continue
            *counts, ejected_s, returned_s = _MONITOR.unpack_from(self._table, at)
            one.server_errors, one.gateway_errors, one.local_failures, one.multiplier = counts
            one.ejected_at_s = ejected_s + shift_s if ejected_s else None
            one.returned_at_s = returned_s + shift_s if returned_s else None

    def _store(self, detector: Detector, monitors: Mapping[Key, Monitor]) -> None:
        shift_s = self._shared.shift_s
        state = self.changes, detector.ejected, detector.next_sweep_s - shift_s
        _CLUSTER.pack_into(self._table, self._at, *state)
        for key, one in monitors.items():
            at = self._monitor(key)
            if at is None:
                continue
            counts = one.server_errors, one.gateway_errors, one.local_failures, one.multiplier
            times = (
                at_s - shift_s if at_s is not None else 0.0
                for at_s in (one.ejected_at_s, one.returned_at_s)
            )
            _MONITOR.pack_into(self._table, at, *counts, *times)

    def _monitor(self, key: Key) -> int | None:
        """Where an endpoint's state is; None where it found no place."""
        if key not in self._monitors:
            self._monitors[key] = self._shared.hold(f"{self._name} {key}")
        number = self._monitors[key]
        return None if number is None else number * _RECORD.size + _KEY_BYTES

    def forget(self, key: Key) -> None:
        """See ``Peers``."""
        number = self._monitors.pop(key, None)
        if number is not None:
            self._shared.release(number)

    def leave(self) -> None:
        """See ``Peers``."""
        for key in list(self._monitors):
            self.forget(key)
        self._shared.release(self._record)
