"""Keeps the plugin chained: at the start, and again when somebody undoes it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import trio

from ambient.api.errors import MeshError, SettingsError
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core import platform
from cni_plugin.io import folder_watch, install, starter
from cni_plugin.settings import Settings

RIVAL_S: Final = 5.0
"""Two rewritings closer together than this are a quarrel rather than a change."""
RIVAL_TIMES: Final = 5

log = get_logger("agent")


class Folders(NamedTuple):
    """The runtime's CNI folders as this process sees them; empty where they are not ours to use.

    ``node_bin_dir`` is how the node calls the second one.
    """

    net_dir: str
    bin_dir: str
    node_bin_dir: str


def find_folders(settings: Settings) -> Folders:
    """What the settings name, or what the node's distribution uses. Raises SettingsError."""
    net_dir, bin_dir = settings.cni_net_dir, settings.cni_bin_dir
    if platform.AUTO not in (net_dir, bin_dir):
        return Folders(net_dir, bin_dir, bin_dir)
    root = settings.host_root.rstrip("/")
    found = platform.detect(lambda path: Path(root + path).is_dir())
    if found is None:
        known = ", ".join(f"{each.name}: {each.net_dir}" for each in platform.PLATFORMS)
        raise SettingsError(
            f"no known CNI folders below {root or '/'} ({known})",
            hint="set CNI_NET_DIR and CNI_BIN_DIR to the folders of the container runtime",
        )
    log.info(Event.CNI_PLATFORM, platform=found.name, net_dir=found.net_dir, bin_dir=found.bin_dir)
    return Folders(
        root + found.net_dir if net_dir == platform.AUTO else net_dir,
        root + found.bin_dir if bin_dir == platform.AUTO else bin_dir,
        found.bin_dir if bin_dir == platform.AUTO else bin_dir,
    )


class Result(StrEnum):
    """What became of an installation; the words are Istio's, of ``istio_cni_installs_total``."""

    SUCCESS = "SUCCESS"
    NO_BINARIES = "COPY_BINARIES_FAILURE"
    NO_CONFIG = "CREATE_CNI_CONFIG_FAILURE"


class Installer:
    """One folder; ``installed`` is true while the runtime finds the plugin in it."""

    def __init__(self, settings: Settings) -> None:
        self._folders = find_folders(settings)
        self._runtime = settings.cni_plugin_runtime
        self._entry = {
            "cni_agent_run_dir": settings.cni_agent_run_dir,
            "exclude_namespaces": list(settings.exclude_namespaces),
            "system_namespace": settings.system_namespace,
            "if_agent_absent": settings.if_agent_absent,
        }
        self._owned_file = ""
        if settings.istio_owned_cni_config:
            self._owned_file = settings.istio_owned_cni_config_filename
        self.results: Final = dict.fromkeys(Result, 0)
        """How often the plugin was installed, and what went wrong."""
        self.installed = not self._folders.net_dir  # else it is somebody else's task
        self._last_s = float("-inf")
        self._quarrels = 0
        self.rival = ""
        """Who takes back what we write, and what ends that; empty as long as nobody does."""
        self._complaint = ""

    async def run(self) -> None:
        """Install, and install again, until cancelled."""
        net_dir, bin_dir, _ = self._folders
        if not net_dir:
            return
        seen: object = None
        with folder_watch.watch(net_dir) as folder:
            while True:
                now = (install.signature(net_dir), starter.installed(bin_dir))
                if now != seen:
                    self._look_for_rival(only_if_put_aside=True)
                    if self._install():
                        await self._mind_rivals()
                    seen = now
                if self.installed:
                    await folder.changed()
                else:  # what was tried in vain has changed the folder too
                    seen = None
                    await trio.sleep(folder_watch.LOOK_S)

    def _install(self) -> bool:
        """Whether something had to change. A full disk, or no network plugin yet: it waits."""
        folders, failure = self._folders, Result.NO_BINARIES
        try:
            if folders.bin_dir:
                starter.install(folders.bin_dir, self._runtime, folders.node_bin_dir)
            failure = Result.NO_CONFIG
            changed = install.install(folders.net_dir, self._entry, self._owned_file)
        except MeshError as error:
            self.installed = False
            self.results[failure] += 1
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning(Event.CNI_WAITING, error=str(error), hint=error.hint)
            return False
        self.installed, self._complaint = True, ""
        if changed:
            self.results[Result.SUCCESS] += 1
            log.info(Event.CNI_INSTALLED, installed=True, folder=folders.net_dir)
        return changed

    async def _mind_rivals(self) -> None:
        """Do not spin against a program that answers every change with another one."""
        now_s = trio.current_time()
        self._quarrels = self._quarrels + 1 if now_s - self._last_s < RIVAL_S else 0
        self._last_s = now_s
        if not self._quarrels:
            self.rival = ""
        if self._quarrels >= RIVAL_TIMES:
            self._look_for_rival(only_if_put_aside=False)
            await trio.sleep(folder_watch.LOOK_S)

    def _look_for_rival(self, *, only_if_put_aside: bool) -> None:
        """Say once who it is. A file of ours that was renamed tells it at the first time."""
        try:
            found = install.rival(self._folders.net_dir, only_if_put_aside=only_if_put_aside)
        except MeshError:
            return  # the installation will say what is wrong with the folder
        if found is None:
            return
        text = f"{found.name} takes the plugin out of the CNI configuration: {found.hint}"
        if text != self.rival:
            self.rival = text
            log.warning(
                Event.CNI_RIVAL, folder=self._folders.net_dir, rival=found.name, hint=found.hint
            )
