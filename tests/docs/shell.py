"""The reader's shell: one command after the other, in a folder and with a mesh of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.docs.page import Command, File, Step

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60
"""Only a failure waits this long."""
AGAIN_S = 0.2
"""Readers are slower than the mesh: what does not hold yet is asked again."""


class Shell:
    """Variables that a command sets are there for the next one, as in a reader's terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        for name in ("docs", "manifests", ".venv"):
            (self.folder / name).symlink_to(ROOT / name)
        self._variables = folder / "variables"
        self._variables.touch()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = os.environ | {
            "XDG_STATE_HOME": str(folder / "state"),
            "PATH": path,
            "COLUMNS": "250",
        }
        self.environment.pop("KUBECONFIG", None)

    def take(self, step: Step) -> None:
        """Do what the page says; AssertionError where it is not true."""
        match step:
            case File():
                (self.folder / step.name).write_text(step.text)
            case Command(endless=True):
                self._watch(step)
            case Command():
                self._run(step)

    def run(self, text: str) -> tuple[int, str]:
        """Exit status and everything that was printed."""
        script = (
            f"set -a; . {self._variables}; {text}\n"
            f"_status=$?; export -p > {self._variables}; exit $_status"
        )
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * DEADLINE_S,
        )
        return done.returncode, done.stdout

    def until(self, true: Callable[[], bool], told: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, told()
            time.sleep(AGAIN_S)

    def _run(self, command: Command) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            status, output = self.run(command.text)
            missing = command.missing(output)
            if command.expects(status) and missing is None:
                return
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"line {command.line}: {command.text}\n"
                    f"exit status {status}; missing: {missing!r}\n{output}"
                )
            time.sleep(AGAIN_S)

    def _watch(self, command: Command) -> None:
        """Until it has shown what the page shows, then Ctrl-C."""
        deadline = time.monotonic() + DEADLINE_S
        with tempfile.TemporaryFile("w+") as output:
            with subprocess.Popen(
                ["bash", "-c", f"set -a; . {self._variables}; exec {command.text}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as running:
                missing: str | None = "anything"
                while missing is not None and time.monotonic() < deadline:
                    time.sleep(AGAIN_S)
                    output.seek(0)
                    missing = command.missing(output.read())
                    if running.poll() is not None:
                        break
                if running.poll() is None:
                    os.killpg(running.pid, signal.SIGINT)
            output.seek(0)
            said = output.read()
        assert missing is None, f"line {command.line}: missing: {missing!r}\n{said}"
        ended = (0, 130, -signal.SIGINT)
        assert running.returncode in ended, f"line {command.line}: {running.returncode}\n{said}"
