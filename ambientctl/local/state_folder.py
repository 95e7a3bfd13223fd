"""The state folder of a mesh: its one trace on the host's disk.

::

    ~/.local/state/ambient-mesh/<name>/
        pid             process id and start time of the first process
        kubeconfig      for kubectl on this machine
        control.sock    for ambientctl
        logs/           supervisor.log and one file for each container
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ambient.api.errors import MeshError, UsageError
from ambientctl.local.layout import state_home

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
SUPERVISOR_LOG: Final = "supervisor.log"


class StateFolder:
    """Paths, and whether the mesh behind them lives."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be the name of a mesh",
                hint="use lower-case letters, digits and dashes, 40 at most",
            )
        self.name: Final = name
        self.path: Final = state_home() / name
        self.kubeconfig: Final = self.path / "kubeconfig"
        self.logs: Final = self.path / "logs"

    @contextlib.contextmanager
    def create(self) -> Iterator[None]:
        """Make the folder; on an error inside the block it is removed again.

        What a crashed mesh left is removed first. Raises MeshError where it cannot be written.
        """
        try:
            self.remove()
            with contextlib.suppress(FileNotFoundError):  # another mesh took the parent away
                self.logs.mkdir(parents=True, mode=0o700)
            self.logs.mkdir(parents=True, mode=0o700, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise MeshError(
                f"cannot make the state folder {self.path}: {error.strerror}",
                hint="set XDG_STATE_HOME to a folder that you can write",
            ) from error
        try:
            yield
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Delete the folder, and the parent that we made where no other mesh uses it."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def first_process(self) -> int | None:
        """A pidfd of the mesh's first process; None where it does not run."""
        try:
            pid_text, start_ticks = (self.path / "pid").read_text().split()
            pid = int(pid_text)
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        if _start_ticks(pid) != start_ticks:  # the number belongs to another process now
            os.close(descriptor)
            return None
        return descriptor

    def pid(self) -> int:
        """The first process' id. Raises OSError or ValueError where there is none."""
        return int((self.path / "pid").read_text().split()[0])

    def is_running(self) -> bool:
        """Does the mesh live?"""
        descriptor = self.first_process()
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def end(self, grace_s: float) -> bool:
        """End the mesh and wait until nothing of it runs; False where it did not run.

        The kernel ends every process of the mesh before it lets the first one go.
        """
        descriptor = self.first_process()
        if descriptor is None:
            return False
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
                if poll.poll(wait_s * 1000):
                    return True
        except PermissionError as error:
            raise MeshError(
                f"mesh {self.name} was started by another user",
                hint=f"use that account, or: sudo kill {self.pid()}",
            ) from error
        finally:
            os.close(descriptor)
        raise MeshError(f"the mesh's first process {self.pid()} does not end")

    def bind_control(self, name: str) -> socket.socket:
        """A listening control socket, for the owner only."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self._short_path(name) as path:
            listener.bind(path)
        (self.path / name).chmod(0o600)
        listener.listen(64)
        return listener

    def connect_control(self, name: str) -> socket.socket:
        """A connection to the running mesh. Raises OSError."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with self._short_path(name) as path:
                client.connect(path)
        except OSError:
            client.close()
            raise
        return client

    @contextlib.contextmanager
    def _short_path(self, name: str) -> Iterator[str]:
        """Socket addresses hold 108 bytes (unix(7)); the folder's own path may be longer."""
        folder = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{folder}/{name}"
        finally:
            os.close(folder)


def _start_ticks(pid: int) -> str:
    """Field 22 of /proc/PID/stat (proc(5)): tells apart two uses of one number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rsplit(")", 1)[1].split()[19]
