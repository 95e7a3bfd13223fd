"""Log files of containers, in the format of the container runtime interface (CRI).

One line is ``2026-01-02T03:04:05.000006Z stdout F text``; ``P`` instead of ``F`` marks a part of a
line that was too long for one entry.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import trio

MAX_LINE_BYTES: Final = 16 * 1024
"""A longer line is cut into parts (containerd's default)."""
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""After this much, a container's file starts again, so that a chatty program fills no disk."""
_ENTRY = re.compile(rb"(\S+) (stdout|stderr) ([FP]) ?(.*)", re.DOTALL)


def log_path(folder: Path, namespace: str, pod: str, container: str) -> Path:
    """Where a container's output goes."""
    return folder / f"{namespace}_{pod}_{container}.log"


class LogFile:
    """Appends the output of one container."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._file = path.open("ab", buffering=0)

    def write(self, stream: str, lines: Iterable[tuple[bytes, bool]]) -> None:
        """Append entries; each line comes with whether it is complete."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        head = f"{stamp} {stream} ".encode()
        data = b"".join(
            head + (b"F " if complete else b"P ") + line + b"\n" for line, complete in lines
        )
        with contextlib.suppress(OSError):  # a full disk loses log lines, not the mesh
            if self._file.tell() + len(data) > MAX_FILE_BYTES:
                self._file.truncate(0)
            self._file.write(data)

    def close(self) -> None:
        """No more output."""
        self._file.close()


class LineCutter:
    """Cuts a byte stream into log lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """The lines that ``data`` completes; over-long ones in parts."""
        *lines, rest = (self._rest + data).split(b"\n")
        cut = [piece for line in lines for piece in _pieces(line, complete=True)]
        while len(rest) >= MAX_LINE_BYTES:
            cut.append((rest[:MAX_LINE_BYTES], False))
            rest = rest[MAX_LINE_BYTES:]
        self._rest = rest
        return cut

    def end(self) -> list[tuple[bytes, bool]]:
        """What is left when the stream ends without a newline."""
        rest, self._rest = self._rest, b""
        return [(rest, True)] if rest else []


async def pump(fd: int, stream: str, log: LogFile) -> None:
    """Copy a pipe into the log until its writers are gone; closes ``fd``."""
    cutter = LineCutter()
    async with trio.lowlevel.FdStream(fd) as pipe:
        async for chunk in pipe:
            lines = cutter.feed(bytes(chunk))
            if lines:
                log.write(stream, lines)
    if lines := cutter.end():
        log.write(stream, lines)


class Entry(NamedTuple):
    """One line of a log file."""

    stamp: str
    """RFC 3339 with microseconds, UTC; such texts sort as times."""
    text: bytes
    """With its newline, unless it is only a part of a line."""


def entries(raw: Iterable[bytes]) -> list[Entry]:
    """Lines of the file, read; a line of another format is taken as it is."""
    found = []
    for line in raw:
        match = _ENTRY.fullmatch(line)
        if match is None:
            found.append(Entry("", line + b"\n"))
        else:
            found.append(Entry(match[1].decode(), match[4] + (b"\n" if match[3] == b"F" else b"")))
    return found


def plain(data: bytes) -> str:
    """The text of a log file, without time stamps."""
    lines = data.split(b"\n")[: None if data and not data.endswith(b"\n") else -1]
    return b"".join(entry.text for entry in entries(lines)).decode(errors="replace")


def last_lines(path: Path, count: int) -> list[str]:
    """The newest lines of a file, of the whole file where it is short; empty where it is absent."""
    try:
        data = path.read_bytes()[-MAX_LINE_BYTES:]
    except OSError:
        return []
    return plain(data).splitlines()[-count:]


def _pieces(line: bytes, *, complete: bool) -> Iterator[tuple[bytes, bool]]:
    while len(line) > MAX_LINE_BYTES:
        yield line[:MAX_LINE_BYTES], False
        line = line[MAX_LINE_BYTES:]
    yield line, complete
