"""What a program still waits for before it may say that it is ready."""

from __future__ import annotations

from collections.abc import Iterable


class Readiness:
    """Named tasks that each have to be done once; the names are shown to whoever asks."""

    def __init__(self, tasks: Iterable[str]) -> None:
        self._pending = set(tasks)

    def done(self, task: str) -> None:
        """Mark one as finished; doing so twice is harmless."""
        self._pending.discard(task)

    def wait_for(self, task: str) -> None:
        """Something that was done has to be done again; not ready until then."""
        self._pending.add(task)

    @property
    def pending(self) -> tuple[str, ...]:
        """What is missing, sorted."""
        return tuple(sorted(self._pending))

    @property
    def ready(self) -> bool:
        """Nothing is missing."""
        return not self._pending

    def answer(self) -> tuple[int, str]:
        """HTTP status and body of ``/healthz/ready`` (ztunnel src/readiness/server.rs)."""
        if self.ready:
            return 200, "ready\n"
        return 500, f"not ready, pending: {', '.join(self.pending)}\n"
