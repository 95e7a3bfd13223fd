"""A whole local mesh as scenarios see it: kubectl from outside, curl from inside."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

AMBIENTCTL = Path(sys.executable).parent / "ambientctl"
FOLDER = Path(__file__).parent
DEADLINE_S = 60
NAME = "scenarios"


class Shell:
    """A shell in a pod that stays for many commands: starting one for each costs most of a test."""

    def __init__(self, pod: str, namespace: str, environment: dict[str, str]) -> None:
        command = [AMBIENTCTL, "local", "exec", pod, "-n", namespace, "--name", NAME, "--", "sh"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )

    def run(self, *command: str) -> str:
        """What the command says. Raises AssertionError where it fails."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        mark = f"done-{time.monotonic_ns()}"
        stdin.write(f"{shlex.join(command)} </dev/null; echo; echo {mark} $?\n")
        stdin.flush()
        lines = []
        for line in stdout:
            if line.startswith(mark):
                said = "".join(lines).removesuffix("\n")
                assert line.split()[1] == "0", (command, line, said)
                return said
            lines.append(line)
        raise AssertionError(f"the shell ended at {command}")

    def close(self) -> None:
        self._process.communicate("exit\n", timeout=10)


class Mesh:
    """A local mesh with the sample behind a waypoint."""

    def __init__(self, state: Path) -> None:
        self._environment = os.environ | {"XDG_STATE_HOME": str(state)}
        self._kubeconfig = state / "ambient-mesh" / NAME / "kubeconfig"
        self._shells: dict[tuple[str, str], Shell] = {}

    def close(self) -> None:
        for shell in self._shells.values():
            shell.close()

    def run(self, *command: str | Path) -> str:
        environment = self._environment | {"KUBECONFIG": str(self._kubeconfig)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def local(self, *arguments: str) -> str:
        return self.run(AMBIENTCTL, "local", *arguments)

    def kubectl(self, *arguments: str | Path) -> str:
        return self.run("kubectl", *arguments)

    def ready(self, namespace: str, *deployments: str) -> None:
        """Wait until all of them are."""
        names = [f"deployment/{name}" for name in deployments]
        self.kubectl("rollout", "status", *names, "-n", namespace, "--timeout=60s")

    @contextmanager
    def applied(self, *names: str, wait: bool = True) -> Iterator[None]:
        """The files ``folder/name`` are applied in the block; behind it the waypoint has none of
        them any more, so that the next test does not meet them; without ``wait`` they may still be
        on their way out.
        """
        files = [word for name in names for word in ("-f", FOLDER / f"{name}.yaml")]
        self.kubectl("apply", *files)
        try:
            yield
        finally:
            self.kubectl("delete", *files, "--ignore-not-found", f"--wait={str(wait).lower()}")
            if wait:
                gone = {key for name in names for key in _keys(FOLDER / f"{name}.yaml")}
                until(lambda: not gone & self._known_to_the_waypoint())

    def _known_to_the_waypoint(self) -> set[tuple[str, str, str]]:
        dump = self.inside("curl", "-s", "http://localhost:15000/config_dump", pod="waypoint")
        objects = json.loads(dump)["objects"]
        return {(one["kind"], one["namespace"], one["name"]) for one in objects}

    def inside(self, *command: str, pod: str = "client", namespace: str = "bookinfo") -> str:
        """What a command says in a pod."""
        shell = self._shells.get((pod, namespace))
        if shell is None:
            shell = self._shells[pod, namespace] = Shell(pod, namespace, self._environment)
        return shell.run(*command)

    def logs(self, pod: str = "waypoint", namespace: str = "bookinfo") -> str:
        return self.local("logs", pod, "-n", namespace, "--name", NAME)

    def curl(self, url: str, *options: str, times: int = 1, parallel: int = 1) -> list[str]:
        """Bodies, each followed by a blank and the status, of requests from the client's pod."""
        arguments = ["-s", "--no-progress-meter", "-m", "10", "-w", " %{http_code}\\n", *options]
        if times > 1:
            arguments += ["-Z", "--parallel-immediate", "--parallel-max", str(parallel)]
            url = f"{url}?[1-{times}]"
        out = self.inside("curl", *arguments, url)
        return [line for line in out.replace("\n ", " ").splitlines() if line]

    def status(self, url: str, *options: str, pod: str = "client") -> int:
        """Of one request; 0 where nobody answers."""
        return int(self.inside("sh", "-c", '"$@" || true', "sh", *_STATUS, *options, url, pod=pod))

    def statuses(self, url: str, *options: str, times: int) -> list[int]:
        """Of several, one after the other."""
        return [status(line) for line in self.curl(url, *options, times=times)]

    def answer(self, url: str, *options: str) -> tuple[dict[str, str], str]:
        """Headers of a response, names in small letters, and its body."""
        head, _, body = self.inside("curl", "-s", "-i", *options, url).partition("\n\n")
        fields = (line.partition(": ") for line in head.splitlines()[1:])
        return {name.lower(): value for name, _, value in fields}, body

    def headers(self, service: str, *options: str) -> dict[str, str]:
        """The request's headers as the service received them, names in small letters."""
        found = json.loads(self.inside("curl", "-s", *options, f"http://{service}:9080/headers"))
        return {name.lower(): value for name, value in found["headers"].items()}

    def versions(self, *options: str, times: int = 1) -> Counter[str]:
        """Versions of reviews that answered; what is no answer of theirs counts by its status."""
        found = self.curl("http://reviews:9080/reviews/0", *options, times=times)
        answers = (line.rpartition(" ") for line in found)
        return Counter(
            json.loads(body)["version"] if body.startswith("{") else code
            for body, _, code in answers
        )

    def json(self, url: str, *options: str) -> Any:
        return json.loads(self.inside("curl", "-s", *options, url))


def _keys(path: Path) -> Iterator[tuple[str, str, str]]:
    """Kind, namespace and name of the objects in a file."""
    for one in yaml.safe_load_all(path.read_text()):
        if one:
            metadata = one["metadata"]
            yield one["kind"], metadata.get("namespace", "default"), metadata["name"]


_STATUS = ("curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}")


def status(line: str) -> int:
    """Of a line of ``curl``."""
    return int(line.rpartition(" ")[2])


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.1)
