"""The one way from gRPC's threads into trio: run an async function there and wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from ambient.api.errors import UnavailableError

T = TypeVar("T")


class Bridge:
    """Made inside trio, called from other threads."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run it in trio; its result or exception. Raises UnavailableError at our end."""
        try:
            return trio.from_thread.run(function, *args, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise UnavailableError("the control plane is stopping") from None
