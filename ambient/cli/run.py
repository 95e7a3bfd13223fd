"""How each program starts and ends: settings, logs, signals, the root nursery, the exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Literal, TypeVar

import msgspec
import trio

from ambient.api.errors import MeshError, SettingsError
from ambient.cli.settings import load_settings
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io import logs

# gRPC's own lines go around our log and are none of its formats. It reads this when it is imported,
# which every program does after this module.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

EXIT_SOFTWARE: Final = 70
"""An error that we did not foresee (EX_SOFTWARE of sysexits.h)."""

S = TypeVar("S", bound=msgspec.Struct)
App = Callable[[S, trio.Event], Awaitable[None]]
"""An app gets its settings and an event that is set when it should end; it returns when it has."""


class LogSettings(msgspec.Struct, frozen=True):
    """The two settings that every program has."""

    log_level: str = "info"
    """``info`` or ``info,access=warn``."""
    log_format: Literal["plain", "json"] = "plain"


def run_program(name: str, kind: type[S], app: App[S]) -> int:
    """Run ``app`` to its end and return the process's exit code.

    The first SIGTERM or SIGINT sets the event, the second one cancels. A MeshError (also inside
    exception groups) is one line and a hint on standard error; anything else is logged with its
    traceback and ends with code 70.
    """
    try:
        log_settings = load_settings(LogSettings, os.environ)
        settings = load_settings(kind, os.environ)
        try:
            logs.configure(log_settings.log_level, log_settings.log_format == "json")
        except ValueError as err:
            raise SettingsError(f"LOG_LEVEL: {err}", hint="set LOG_LEVEL to info") from None
        return trio.run(_supervise, name, settings, app)
    except MeshError as err:
        return _report([err])
    except BaseExceptionGroup as group:
        errors = list(leaves(group))
        known = [err for err in errors if isinstance(err, MeshError)]
        if len(known) == len(errors):
            return _report(known)
        _log_failure(name, group)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as err:  # noqa: BLE001 - the last frame: whatever it is, it gets logged
        _log_failure(name, err)
    return EXIT_SOFTWARE


async def _supervise(name: str, settings: S, app: App[S]) -> int:
    log = logs.get_logger(name)
    stopping = trio.Event()
    forced = 0
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal forced
                async for number in signals:
                    if stopping.is_set():
                        log.warning(Event.PROGRAM_FORCED, signal=signal.Signals(number).name)
                        forced = 128 + number
                        nursery.cancel_scope.cancel()
                        return
                    log.info(Event.PROGRAM_STOPPING, signal=signal.Signals(number).name)
                    stopping.set()

            nursery.start_soon(watch)
            log.info(Event.PROGRAM_STARTED, pid=os.getpid())
            await app(settings, stopping)
            nursery.cancel_scope.cancel()
    log.info(Event.PROGRAM_STOPPED, code=forced)
    return forced


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The single exceptions of a group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def _report(errors: list[MeshError]) -> int:
    """Print each different error once; the first one decides the exit code."""
    for text, hint in dict.fromkeys((str(err), err.hint) for err in errors):
        sys.stderr.write(f"error: {text}\n" + (f"hint: {hint}\n" if hint else ""))
    return errors[0].exit_code


def _log_failure(name: str, error: BaseException) -> None:
    """One exception alone is logged without the groups that nurseries wrapped around it."""
    errors = list(leaves(error))
    shown = errors[0] if len(errors) == 1 else error
    logs.get_logger(name).exception(
        Event.PROGRAM_FAILED, error=type(shown).__name__, exc_info=shown
    )
