"""Calls that block, out of the way of everybody else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import trio

from ambient.api.errors import MeshError

P = ParamSpec("P")
T = TypeVar("T")


class EnrolError(MeshError):
    """A pod cannot be brought into the mesh now."""


async def on_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what blocks on a worker thread; a refusal of the kernel becomes an EnrolError."""
    try:
        return await trio.to_thread.run_sync(partial(function, *args, **kwargs))
    except OSError as error:
        raise EnrolError(f"{error.filename or 'the kernel'}: {error.strerror or error}") from None
