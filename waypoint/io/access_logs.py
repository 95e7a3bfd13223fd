"""Writes access logs as the mesh and Telemetry ask for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, TextIO

import msgspec

from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from waypoint.core.log_format import DEFAULT_LABELS, DEFAULT_TEXT, label_format, text_format
from waypoint.core.objects import UnusableError
from waypoint.core.providers import LogSink
from waypoint.core.record import Record

_STANDARD: Final = {"/dev/stdout": "stdout", "/dev/stderr": "stderr"}
Write = Callable[[Record], str]

log = get_logger("waypoint")


class AccessLogs:
    """Formats are compiled once for each sink; files are opened once and appended to."""

    def __init__(self) -> None:
        self._formats: dict[str, Write] = {}
        self._files: dict[str, TextIO | None] = {}

    def write(self, sink: LogSink, record: Record) -> None:
        """One line."""
        key = repr(sink)
        form = self._formats.get(key)
        if form is None:
            form = self._formats[key] = _format(sink)
        out = self._file(sink.path)
        if out is not None:
            out.write(form(record))
            out.flush()

    def _file(self, path: str) -> TextIO | None:
        standard = _STANDARD.get(path)
        if standard is not None:
            found: TextIO = getattr(sys, standard)
            return found
        if path not in self._files:
            try:
                self._files[path] = open(path, "a", encoding="utf-8")  # noqa: SIM115 - kept
            except OSError as error:
                self._files[path] = None
                log.warning(Event.ACCESS_LOG_FAILED, path=path, error=str(error))
        return self._files[path]

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            if file is not None:
                file.close()
        self._files.clear()


def _format(sink: LogSink) -> Write:
    """What cannot be understood gives way to the default, and is told once."""
    try:
        if sink.labels is None:
            return text_format(sink.text or DEFAULT_TEXT, f"logFormat of {sink.name}")
        labels = sink.labels or DEFAULT_LABELS
        fields = label_format(labels, f"logFormat of {sink.name}", omit_empty=sink.omit_empty)
    except UnusableError as bad:
        log.warning(Event.ACCESS_LOG_FAILED, path=sink.path, error=str(bad))
        return text_format(DEFAULT_TEXT, "")
    return lambda record: msgspec.json.encode(fields(record)).decode() + "\n"
