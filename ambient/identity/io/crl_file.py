"""The revocation file: read at the start and whenever it changes; the last good state counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import trio
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ambient.identity.core.crl import (
    REVOKED,
    CrlError,
    RevocationLists,
    RevokedError,
    parse_lists,
)
from ambient.identity.core.verify import PeerIdentityError
from ambient.identity.io.file_watch import follow_file
from ambient.telemetry.core import metric_names as names
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger

log = get_logger("identity")


class _Watched(NamedTuple):
    chain: tuple[bytes, ...]
    reporter: str
    cut: Callable[[], None]


class CrlFile(Collector):
    """Implements ``Revocation`` and counts what it refused."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lists = RevocationLists()
        self._watched: dict[object, _Watched] = {}
        self.rejections: Counter[str] = Counter()
        """By reporter: handshakes refused and connections cut."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the file, then follow it until cancelled."""
        await follow_file(self._path, self._take, task_status=task_status)

    def admit(
        self, chain: Sequence[bytes], reporter: str, cut: Callable[[], None]
    ) -> Callable[[], None]:
        """See ``Revocation``."""
        serial = self._lists.revoked(chain)
        if serial is not None:
            self.rejections[reporter] += 1
            raise RevokedError(
                f"{REVOKED} (serial {serial:x})",
                hint="its holder needs a new certificate: delete its pod, or restart its tunnel",
            )
        ticket = object()
        self._watched[ticket] = _Watched(tuple(chain), reporter, cut)
        return lambda: self._leave(ticket)

    def collect(self) -> Iterator[Metric]:
        """The family, once there is something to tell."""
        if self.rejections:
            text = "Handshakes refused and connections cut for a revoked certificate (unstable)."
            family = CounterMetricFamily(names.CRL_REJECTIONS, text, labels=["reporter"])
            for reporter, count in self.rejections.items():
                family.add_metric([reporter], count)
            yield family

    def _leave(self, ticket: object) -> None:
        self._watched.pop(ticket, None)

    def _take(self, content: bytes | OSError) -> None:
        try:
            if isinstance(content, FileNotFoundError) and not self._lists.entries:
                log.info(Event.CRL_ABSENT, path=self._path)
                return
            if isinstance(content, OSError):
                raise CrlError(content.strerror or str(content))
            self._lists = parse_lists(content)
        except CrlError as error:
            log.error(
                Event.CRL_FAILED,
                path=self._path,
                error=str(error),
                still_revoked=self._lists.entries,
            )
            return
        closed = self._judge_again()
        log.info(
            Event.CRL_LOADED, path=self._path, revoked=self._lists.entries, connections_cut=closed
        )

    def _judge_again(self) -> int:
        """Cut the live connections whose chain is revoked now; how many."""
        closed = 0
        for ticket, (chain, reporter, cut) in list(self._watched.items()):
            try:
                gone = self._lists.revoked(chain) is not None
            except PeerIdentityError:
                gone = True  # it came when there were no lists; now it could not come
            if gone:
                self._leave(ticket)
                self.rejections[reporter] += 1
                closed += 1
                cut()
        return closed


def revocation_of(path: str) -> CrlFile | None:
    """A follower of ``CRL_PATH``; none where that is not set. Raises CrlError for a folder."""
    if not path:
        return None
    if Path(path).is_dir():
        raise CrlError(f"CRL_PATH={path} is a folder", hint="name the file with the lists")
    return CrlFile(path)
