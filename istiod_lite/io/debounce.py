"""Changes come in bursts; proxies are told once it is quiet, or when it has been too long."""

from __future__ import annotations

import trio


class Debounce:
    """``note`` a change, ``wait`` until it is time to tell."""

    def __init__(self, quiet_s: float, longest_s: float) -> None:
        self._quiet_s = quiet_s
        self._longest_s = longest_s
        self._changed = trio.Event()

    def note(self) -> None:
        """Something has changed."""
        self._changed.set()

    def forget(self) -> None:
        """What has changed until now has been told."""
        self._changed = trio.Event()

    async def first(self) -> None:
        """Wait for a change."""
        await self._changed.wait()

    async def quiet(self) -> None:
        """After a change: wait until no more came for a while, but never longer than allowed."""
        with trio.move_on_after(self._longest_s):
            while self._changed.is_set():
                self._changed = trio.Event()
                with trio.move_on_after(self._quiet_s):
                    await self._changed.wait()
        self._changed = trio.Event()
