"""Log lines on standard output, plain or JSON, in the layout of Istio's tunnel.

Plain: time (RFC 3339), level, scope, event, ``key=value`` fields, joined by tabs. JSON: ``level``,
``time``, ``scope``, ``message``, then the fields. Levels can be changed while the program runs.
"""

from __future__ import annotations

import json as jsonlib
import logging
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from types import ModuleType
from typing import IO, Any, cast

# structlog's console colours import rich where it is installed: 6 MB in every node tunnel, for a
# renderer that we do not use. A module that is None counts as absent.
_hidden = "rich" not in sys.modules
if _hidden:
    sys.modules["rich"] = cast(ModuleType, None)
try:
    import structlog
    from structlog.typing import EventDict, Processor, WrappedLogger
finally:
    if _hidden:
        del sys.modules["rich"]

from ambient.telemetry.core.event_names import Event  # noqa: E402 - after the exception above

LEVELS: Mapping[str, int] = {
    "trace": 5,
    "debug": 10,
    "info": 20,
    "warn": 30,
    "warning": 30,
    "error": 40,
    "critical": 50,
    "off": 60,
}
"""Accepted spellings; ``warn`` is what is printed, as upstream does."""
ACCESS_SCOPE = "access"


class Levels:
    """The level of each scope; one without its own falls back to its parents, then to ``""``."""

    def __init__(self, spec: str = "info") -> None:
        self._by_scope: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self.update(spec)

    def update(self, spec: str) -> None:
        """Apply ``info`` or ``info,access=warn,xds:debug``.

        Raises ValueError that names the clause which cannot be used; then nothing is changed.
        """
        wanted: dict[str, int] = {}
        for clause in filter(None, (part.strip() for part in spec.split(","))):
            scope, separator, level = clause.replace(":", "=", 1).rpartition("=")
            if level.lower() not in LEVELS or (separator and not scope):
                raise ValueError(f"{clause!r} is not a level ({', '.join(LEVELS)}) or scope=level")
            wanted[scope] = LEVELS[level.lower()]
        self._by_scope.update(wanted)
        self._by_scope.setdefault("", LEVELS["info"])
        self._known.clear()

    def replace(self, spec: str) -> None:
        """As ``update``, but scopes that ``spec`` does not name lose their own level."""
        self._by_scope = Levels(spec)._by_scope
        self._known.clear()

    def of(self, scope: str) -> int:
        """The lowest level that ``scope`` logs."""
        known = self._known.get(scope)
        if known is None:
            parent = scope
            while parent not in self._by_scope:
                parent = parent.rpartition(".")[0]
            known = self._known[scope] = self._by_scope[parent]
        return known

    def __str__(self) -> str:
        names = {number: name for name, number in reversed(list(LEVELS.items()))}
        default = names[self._by_scope[""]]
        rest = sorted((s, names[n]) for s, n in self._by_scope.items() if s)
        return ",".join([default, *(f"{scope}={level}" for scope, level in rest)])


levels = Levels()
"""The process's levels; an admin endpoint may ``levels.update(...)``."""


class _Output:
    """What structlog writes to: a scope's name and a stream."""

    def __init__(self, scope: str, stream: IO[str] | None) -> None:
        self.scope = scope
        self._stream = stream

    def msg(self, line: str) -> None:
        # Looked up late: tests and supervisors replace sys.stdout.
        stream = self._stream or sys.stdout
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # Nobody reads our log any more; that must not end the tunnel.


class MeshLogger:
    """A scope's logger. Levels can change at run time; a suppressed line costs one look-up.

    Lines without a traceback are put together here: structlog's way costs several times as much.
    """

    __slots__ = ("_fields", "_scope")

    def __init__(self, scope: str, fields: dict[str, Any]) -> None:
        self._scope = scope
        self._fields = fields

    def _log(self, level: str, number: int, event: str, fields: dict[str, Any]) -> None:
        if number < levels.of(self._scope):
            return
        direct = _direct
        if direct is not None and "exc_info" not in fields and direct.undisturbed:
            if _everywhere or self._fields:
                fields = _everywhere | self._fields | fields
            direct.write(self._scope, level, event, fields)
        else:
            if direct is not None:
                direct.flush()
            logger = structlog.get_logger(self._scope, **self._fields)
            getattr(logger, _METHODS.get(level, level))(event, **fields)

    def debug(self, event: str, **fields: Any) -> None:
        """For those who look for a fault."""
        self._log("debug", 10, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Normal life."""
        self._log("info", 20, event, fields)

    def info_with(self, event: str, fields: Callable[[], dict[str, Any]], more: Standing) -> None:
        """``info`` with fields that many lines share, behind those of this line, which are asked
        for where the line is written."""
        direct = _direct
        if levels.of(self._scope) > LEVELS["info"]:
            return
        own = fields()
        if direct is not None and direct.undisturbed:
            if _everywhere or self._fields:
                own = _everywhere | self._fields | own
            direct.write(self._scope, "info", event, own, more.text(direct))
        else:
            self._log("info", 20, event, own | more.fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Somebody should look at this some time."""
        self._log("warn", 30, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something was not done."""
        self._log("error", 40, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the traceback of the exception that is being handled."""
        fields.setdefault("exc_info", True)
        self._log("error", 40, event, fields)


_METHODS: Mapping[str, str] = {"warn": "warning"}


class _Bound(structlog.BoundLoggerBase):
    """How structlog is asked, with the levels that we print."""

    def _send(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self._proxy_to_logger("msg", event, _level=level, **fields)

    def debug(self, event: str, **fields: Any) -> None:
        self._send("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._send("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._send("warn", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._send("error", event, fields)


class Standing:
    """Fields that many lines share; they are put into text once."""

    __slots__ = ("_text", "_way", "fields")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self._way: _Direct | None = None
        self._text = ""

    def text(self, way: _Direct) -> str:
        """As they stand behind other fields of a line."""
        if self._way is not way:
            self._way, self._text = way, way.tail(self.fields)
        return self._text


class _Direct:
    """The short way from a logger to the stream, as long as nobody has changed the long one."""

    def __init__(self, processors: list[Processor], json: bool, stream: IO[str] | None) -> None:
        self._processors = processors
        self._last = processors[-1]
        self._render = _json_line if json else _plain_line
        self._output = _Output("", stream)
        self.tail = _json_tail if json else _plain_tail
        self.later: Callable[[_Direct], None] | None = None
        self._held: list[str] = []

    @property
    def undisturbed(self) -> bool:
        """Does structlog have the processors that we gave it? Tests that capture lines do not."""
        now = structlog.get_config()["processors"]
        return now is self._processors and len(now) == 3 and now[-1] is self._last

    def write(
        self, scope: str, level: str, event: str, fields: dict[str, Any], tail: str = ""
    ) -> None:
        """One line; ``tail`` are further fields as text."""
        line = self._render(level, scope, event, fields, tail)
        if self.later is None:
            self._output.msg(line)
            return
        self._held.append(line)
        if len(self._held) == 1:
            self.later(self)

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            held, self._held = self._held, []
            self._output.msg("\n".join(held))


def hold_lines(later: Callable[[_Direct], None] | None) -> None:
    """From now on lines wait until ``flush`` is called on what ``later`` is given: one write for
    many of them. None: each line is written at once again."""
    if _direct is not None:
        _direct.flush()
        _direct.later = later


_direct: _Direct | None = None
_everywhere: dict[str, Any] = {}


def configure(level: str = "info", json: bool = False, stream: IO[str] | None = None) -> None:
    """Set up the process's logging. Raises ValueError for an unknown level.

    ``stream`` None means whatever ``sys.stdout`` is at the time of each line.
    """
    global _direct
    hold_lines(None)
    levels.replace(level)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.format_exc_info,
        _render_json if json else _render_plain,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=_Bound,
        logger_factory=lambda *args: _Output(str(args[0]) if args else "", stream),
        cache_logger_on_first_use=False,
    )
    _direct = _Direct(processors, json, stream)
    root = logging.getLogger()
    root.handlers[:] = [_Foreign()]
    root.setLevel(logging.WARNING)


def get_logger(scope: str = "", **fields: Any) -> MeshLogger:
    """A logger whose lines carry ``scope`` (``access``, ``xds``, ``outbound``, ...) and fields."""
    return MeshLogger(scope, fields)


def is_logged(scope: str, level: str) -> bool:
    """Whether a line of this scope and level is written: for lines whose fields are dear."""
    return LEVELS[level] >= levels.of(scope)


def bind_everywhere(**fields: Any) -> None:
    """Let every later line of this process carry these fields."""
    _everywhere.update(fields)
    structlog.contextvars.bind_contextvars(**fields)


class _Foreign(logging.Handler):
    """Lines that libraries log through the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        log = get_logger(record.name)
        send = log.error if record.levelno >= logging.ERROR else log.warning
        send(Event.FOREIGN_LOG, text=record.getMessage(), exc_info=record.exc_info or None)


_second, _second_text = -1, ""


def _now() -> str:
    global _second, _second_text
    second, part = divmod(time.time_ns(), 1_000_000_000)
    if second != _second:
        _second = second
        _second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
    return f"{_second_text}{part // 1000:06d}Z"


def _split(logger: WrappedLogger, event_dict: MutableMapping[str, Any]) -> tuple[str, str, str]:
    scope = getattr(logger, "scope", "")
    return event_dict.pop("_level", "info"), scope, str(event_dict.pop("event", ""))


def _render_plain(logger: WrappedLogger, _: str, event_dict: EventDict) -> str:
    level, scope, event = _split(logger, event_dict)
    trace = event_dict.pop("exception", "")
    return _plain_line(level, scope, event, event_dict) + (f"\n{trace}" if trace else "")


def _plain_line(
    level: str, scope: str, event: str, fields: Mapping[str, Any], tail: str = ""
) -> str:
    head = f"{_now()}\t{level}\t{scope}\t{event}" if scope else f"{_now()}\t{level}\t{event}"
    return f"{head}\t{' '.join(_plain_pairs(fields))}{tail}" if fields else head


def _plain_tail(fields: Mapping[str, Any]) -> str:
    return "".join([f" {pair}" for pair in _plain_pairs(fields)])


def _plain_pairs(fields: Mapping[str, Any]) -> list[str]:
    pairs: list[str] = []
    for key, value in fields.items():
        if type(value) is str and value.isprintable() and '"' not in value and "\\" not in value:
            pairs.append(f'{key}="{value}"')  # as most are: nothing to escape
        elif type(value) is int:
            pairs.append(f"{key}={value}")
        else:
            pairs.append(f"{key}={_plain(value)}")
    return pairs


def _plain(value: object) -> str:
    """Strings are quoted as upstream quotes them; numbers, addresses and the like are bare."""
    if isinstance(value, str):
        return jsonlib.dumps(str(value), ensure_ascii=False)
    if isinstance(value, (bool, int, float)) or value is None:
        return jsonlib.dumps(value)
    return str(value)


def _render_json(logger: WrappedLogger, _: str, event_dict: EventDict) -> str:
    return _json_line(*_split(logger, event_dict), event_dict)


def _json_line(
    level: str, scope: str, event: str, fields: Mapping[str, Any], tail: str = ""
) -> str:
    head = {"level": level, "time": _now(), "scope": scope, "message": event}
    text = jsonlib.dumps(head | dict(fields), default=str, ensure_ascii=False)
    return text[:-1] + tail + "}" if tail else text


def _json_tail(fields: Mapping[str, Any]) -> str:
    text = jsonlib.dumps(dict(fields), default=str, ensure_ascii=False)
    return ", " + text[1:-1] if fields else ""
