"""The stage of the demo: the local mesh, and the few things that its checks do with it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from ambientctl.demo.checks import CheckFailedError
from ambientctl.local.mesh import LocalMesh

NAMESPACE: Final = "bookinfo"
INSIDE: Final = ("client", NAMESPACE)
"""The client that gets into the mesh with its namespace."""
OUTSIDE: Final = ("outside", "default")
"""The client that stays outside."""
APPS: Final = ("productpage", "details", "reviews-v1", "reviews-v2", "reviews-v3", "ratings")
RETRY_S: Final = 0.1
"""Pause between two looks at something that has to become true."""


class Stage:
    """The mesh under demonstration and what earlier checks left for later ones."""

    def __init__(self, mesh: LocalMesh) -> None:
        self.mesh = mesh
        self.process_ids: dict[str, dict[str, int]] = {}
        """Process ids of every pod before enrolment."""
        self.echo: Callable[[str], Awaitable[str]] | None = None
        """Sends a line over the connection that was opened before enrolment."""

    async def kubectl(self, *args: str, stdin: bytes = b"") -> str:
        """Run the real kubectl against the mesh and return what it printed."""
        command = ["kubectl", "--kubeconfig", str(self.mesh.kubeconfig), *args]
        done = await trio.run_process(
            command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
        )
        if done.returncode != 0:
            raise CheckFailedError(f"kubectl {' '.join(args)}: {done.stderr.decode().strip()}")
        return done.stdout.decode()

    async def get(self, *args: str) -> dict[str, Any]:
        """``kubectl get ... -o json``, decoded."""
        found: dict[str, Any] = msgspec.json.decode(await self.kubectl("get", *args, "-o", "json"))
        return found

    async def apply(self, manifest: str) -> None:
        """``kubectl apply -f`` a manifest."""
        await self.kubectl("apply", "-f", "-", stdin=manifest.encode())

    async def curl(self, client: tuple[str, str], url: str, *options: str) -> tuple[int, str]:
        """(HTTP status, body) as curl in the client's pod sees it; status 0: no HTTP answer."""
        arguments = ["curl", "-sS", "-m", "5", "-w", "\n%{http_code}", *options, url]
        done = await self.mesh.exec(*client, arguments)
        body, _, status = done.out.rpartition("\n")
        return (int(status) if done.code == 0 else 0), body if done.code == 0 else done.err.strip()

    async def ambientctl(self, *args: str) -> str:
        """Run our own command line as a user would."""
        command = [str(program("ambientctl")), *args]
        environment = {"KUBECONFIG": str(self.mesh.kubeconfig), "PATH": "/usr/bin:/bin"}
        done = await trio.run_process(
            command, env=environment, capture_stdout=True, capture_stderr=True, check=False
        )
        if done.returncode != 0:
            raise CheckFailedError(f"ambientctl {' '.join(args)}: {done.stderr.decode().strip()}")
        return done.stdout.decode()

    async def pod_on_another_node(self, client: tuple[str, str]) -> tuple[str, str]:
        """(name, address) of an application's pod that is not on the client's node."""
        here = await self.mesh.node_of(*client)
        for pod in (await self.get("pods", "-n", NAMESPACE))["items"]:
            labels = pod["metadata"].get("labels", {})
            if pod["spec"]["nodeName"] != here and labels.get("app") in ("details", "reviews"):
                return pod["metadata"]["name"], pod["status"]["podIP"]
        raise CheckFailedError(f"every pod of {NAMESPACE} is on node {here}: is there a second?")


def program(name: str) -> Path:
    """Where our own programs are installed: beside the running Python."""
    import sys

    return Path(sys.executable).parent / name


def marker() -> str:
    """A text that nobody else sends, to look for on the wire."""
    return f"demo-{secrets.token_hex(8)}"


async def until(look: Callable[[], Awaitable[str | None]]) -> str:
    """Look until there is something to tell; the check's deadline bounds it."""
    while True:
        seen = await look()
        if seen is not None:
            return seen
        await trio.sleep(RETRY_S)
