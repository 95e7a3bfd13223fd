"""File mode: the mesh state from a file or from the environment, read again when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from ambient.api.errors import SettingsError
from ambient.api.type_urls import ADDRESS_TYPE, AUTHORIZATION_TYPE
from ambient.identity.io.file_watch import follow_file
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from ambient.xds.core.wire import BadResource
from ambient.xds.io.session import Update
from ztunnel.core.local_config import LocalConfig, LocalConfigError, read

INLINE: Final = "LOCAL_XDS"

log = get_logger("local")


class LocalState:
    """Applies what the file says, as the control plane's answers are applied.

    At the start a file that cannot be used is an error; later the last good one stays in force.
    """

    def __init__(
        self, path: str, inline: str, apply: Callable[[Update], Iterable[BadResource]]
    ) -> None:
        """Raises SettingsError where both are given."""
        if path and inline:
            raise SettingsError(
                "LOCAL_XDS_PATH and LOCAL_XDS are both set",
                hint="keep the one that holds the mesh state",
            )
        self._path = path
        self._inline = inline
        self._apply = apply
        self._applied = LocalConfig({}, {})
        self._started = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; starts when the state is there. Raises LocalConfigError."""
        if self._inline:
            self._take(read(self._inline, INLINE))
            task_status.started()
            await trio.sleep_forever()
        await follow_file(self._path, self._changed, task_status=task_status)

    def _changed(self, content: bytes | OSError) -> None:
        try:
            if isinstance(content, OSError):
                raise LocalConfigError(
                    f"LOCAL_XDS_PATH {self._path} cannot be read: {content.strerror}",
                    hint="does the file exist, and may this process read it?",
                )
            self._take(read(content.decode(errors="replace"), f"LOCAL_XDS_PATH {self._path}"))
        except LocalConfigError as error:
            if not self._started:
                raise
            log.error(Event.LOCAL_STATE_REFUSED, error=str(error), hint=error.hint)

    def _take(self, config: LocalConfig) -> None:
        """Only what this file said before is removed: a control plane may tell more."""
        for kind, old, new in (
            (ADDRESS_TYPE, self._applied.addresses, config.addresses),
            (AUTHORIZATION_TYPE, self._applied.policies, config.policies),
        ):
            self._apply(Update(kind, dict(new), frozenset(old.keys() - new.keys())))
        self._applied, self._started = config, True
        log.info(
            Event.LOCAL_STATE_READ,
            source=self._path or INLINE,
            addresses=len(config.addresses),
            policies=len(config.policies),
        )
