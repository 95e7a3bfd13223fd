"""The node's socket map: which pods' connections it may join, kept in step with who is enrolled.

It only makes connections faster, so nothing waits for it: where the kernel has none, pods go on
without, and the reason is in the log and at ``/status``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import trio

from ambient.api.errors import MeshError
from ambient.net.io import socket_map, socket_map_trial
from ambient.net.io.bpf_flows import netns_cookie
from ambient.net.io.netns import Netns
from ambient.net.io.socket_map import Directions, SocketMap
from ambient.telemetry.core.event_names import Event
from ambient.telemetry.io.logs import get_logger
from cni_plugin.core.reconcile import Phase
from cni_plugin.core.socket_map_wish import SocketMapWish, wish_of
from cni_plugin.io.entry import Entry
from cni_plugin.settings import Settings

LOOK_S: Final = 1.0
"""How soon a pod that has joined or left is noticed; its containers start later than that."""
_DIRECTIONS: Final[Mapping[SocketMapWish, Directions]] = {
    "off": Directions.NONE,
    "send": Directions.FROM_APPLICATION,
    "both": Directions.BOTH,
}

log = get_logger("agent")


class NodeSocketMap:
    """Owns the map's members; ``run`` matches them to the pods until it is cancelled."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = folder_of(settings)
        self._map: SocketMap | None = None
        self._cookies: dict[Netns, int] = {}
        """Of namespaces that were there at the last look."""
        self.state: str = settings.socket_map
        """The setting, or why there is none although it was asked for."""

    def counts(self) -> Mapping[str, int]:
        """See ``socket_map.COUNTS``; empty where there is no map."""
        try:
            return {} if self._map is None else self._map.counts()
        except OSError:
            return {}

    async def run(self, entries: Callable[[], Iterable[Entry]]) -> None:
        """Make the map or find it, and match its members to the pods until cancelled.

        Where none is wanted, an earlier agent's is taken off the node.
        """
        if self._settings.socket_map == "off":
            await trio.to_thread.run_sync(self._remove)
            return
        try:
            self._map = await trio.to_thread.run_sync(self._proven)
        except MeshError as error:
            self.state = f"unavailable: {error}"
            log.warning(Event.SOCKET_MAP_UNAVAILABLE, reason=str(error), hint=error.hint)
            await trio.to_thread.run_sync(self._remove)
            return
        log.info(Event.SOCKET_MAP_READY, carries=self._settings.socket_map)
        while True:
            try:
                self._match(self._map, self._wanted(entries()))
            except OSError as error:
                log.warning(Event.SOCKET_MAP_UNAVAILABLE, reason=error.strerror or str(error))
            await trio.sleep(LOOK_S)

    def close(self) -> None:
        """Let go; what is joined goes on, and so do the programs."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def _proven(self) -> SocketMap:
        opened = socket_map.open_socket_map(self._settings.proc_dir, self._folder)
        try:
            socket_map_trial.prove(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    def _remove(self) -> None:
        try:
            socket_map.remove_socket_map(self._folder)
        except OSError as error:
            log.warning(Event.SOCKET_MAP_UNAVAILABLE, reason=error.strerror or str(error))

    def _wanted(self, entries: Iterable[Entry]) -> dict[int, Directions]:
        wanted: dict[int, Directions] = {}
        seen: dict[Netns, int] = {}
        for entry in entries:
            if entry.phase is not Phase.ENROLLED or entry.netns is None or entry.pod is None:
                continue
            cookie = seen[entry.netns] = self._cookie(entry.netns)
            directions = _DIRECTIONS[wish_of(entry.pod, self._settings.socket_map)]
            if directions:
                wanted[cookie] = directions
        self._cookies = seen
        return wanted

    def _cookie(self, netns: Netns) -> int:
        found = self._cookies.get(netns)
        return netns_cookie(netns) if found is None else found

    @staticmethod
    def _match(joining: SocketMap, wanted: Mapping[int, Directions]) -> None:
        present = joining.members()
        for cookie in present.keys() - wanted.keys():
            joining.dismiss(cookie)
        for cookie, directions in wanted.items():
            if present.get(cookie) != directions:
                joining.admit(cookie, directions)


def folder_of(settings: Settings) -> str:
    """Where the map's names are: beside the eBPF redirection's."""
    return str(Path(settings.bpf_dir).with_name(Path(socket_map.FOLDER).name))
