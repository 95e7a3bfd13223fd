"""``kubectl logs``: a container's log file as the API shows it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import trio

from ambientctl.local.log_files import entries

LOOK_S: Final = 0.2
"""How often a followed log is looked at."""


class LogWish(msgspec.Struct, frozen=True, kw_only=True):
    """What of the log is wanted (Kubernetes API, pods/log)."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since_seconds: int | None = None
    limit_bytes: int | None = None


async def read_log(path: Path, wish: LogWish) -> AsyncGenerator[bytes, None]:
    """The log in pieces; a followed one until the file is gone or the client is."""
    await trio.lowlevel.checkpoint()
    if not os.path.exists(path):  # noqa: ASYNC240 - a local file, no waiting
        return
    with open(path, "rb") as file:  # noqa: ASYNC230
        *lines, rest = file.read().split(b"\n")
        yield _shown(lines, wish)
        while wish.follow and os.fstat(file.fileno()).st_nlink:
            await trio.sleep(LOOK_S)
            *lines, rest = (rest + file.read()).split(b"\n")
            if lines:
                yield _shown(lines, LogWish(timestamps=wish.timestamps))


def _shown(raw: list[bytes], wish: LogWish) -> bytes:
    found = entries(raw)
    if wish.since_seconds is not None:
        since = datetime.now(UTC) - timedelta(seconds=wish.since_seconds)
        limit = since.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        found = [entry for entry in found if entry.stamp >= limit]
    if wish.tail_lines is not None:
        found = found[-wish.tail_lines :] if wish.tail_lines > 0 else []
    text = b"".join(
        (entry.stamp.encode() + b" " if wish.timestamps else b"") + entry.text for entry in found
    )
    return text if wish.limit_bytes is None else text[: wish.limit_bytes]
