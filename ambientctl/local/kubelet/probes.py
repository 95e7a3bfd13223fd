"""Startup, liveness and readiness probes.

``httpGet`` and ``tcpSocket`` are made from the node's network namespace, as a kubelet makes them:
they meet the pod's mesh rules, and it takes the node agent's rules to let them pass under STRICT.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import trio

from ambient.net.io.netns import Netns

FIRST_RETRY_S: Final = 0.05
"""Until a probe first succeeds it is repeated quickly, twice as long apart each time, at most the
probe's period. A cluster waits a whole period; on one machine that would be most of the start."""


class Outcome(NamedTuple):
    """The result of one probe; ``reason`` says why it failed."""

    ok: bool
    reason: str = ""


Execute = Callable[[list[str]], Awaitable[tuple[int, str]]]
"""Runs a command in the container: exit status and output."""


class Prober:
    """Makes the probes of one container."""

    def __init__(
        self, node: Netns, address: str, container: Mapping[str, Any], execute: Execute
    ) -> None:
        self._node = node
        self._address = address
        self._ports = {
            port["name"]: port["containerPort"]
            for port in container.get("ports") or []
            if port.get("name")
        }
        self._execute = execute

    async def once(self, probe: Mapping[str, Any]) -> Outcome:
        """One probe, within its ``timeoutSeconds``."""
        timeout_s = float(probe.get("timeoutSeconds") or 1)
        with trio.move_on_after(timeout_s):
            try:
                return await self._perform(probe)
            except (OSError, ValueError, ssl.SSLError, trio.BrokenResourceError) as error:
                return Outcome(False, str(error) or type(error).__name__)
        return Outcome(False, f"no answer within {timeout_s:g} s")

    async def until_success(self, probe: Mapping[str, Any]) -> None:
        """Probe quickly until it first succeeds."""
        await trio.sleep(float(probe.get("initialDelaySeconds") or 0))
        period_s = float(probe.get("periodSeconds") or 10)
        wait_s = min(FIRST_RETRY_S, period_s)
        while not (await self.once(probe)).ok:
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, period_s)

    async def until_turn(self, probe: Mapping[str, Any], *, from_ok: bool) -> str:
        """Probe each period until the verdict turns; returns the reason of the last failure."""
        period_s = float(probe.get("periodSeconds") or 10)
        threshold = int(
            probe.get("failureThreshold") or 3 if from_ok else probe.get("successThreshold") or 1
        )
        in_a_row = 0
        while True:
            await trio.sleep(period_s)
            outcome = await self.once(probe)
            in_a_row = in_a_row + 1 if outcome.ok is not from_ok else 0
            if in_a_row >= threshold:
                return outcome.reason

    async def _perform(self, probe: Mapping[str, Any]) -> Outcome:
        if "httpGet" in probe:
            return await self._http(probe["httpGet"])
        if "tcpSocket" in probe:
            target = probe["tcpSocket"]
            stream = await self._connect(target.get("host"), target["port"])
            await stream.aclose()
            return Outcome(True)
        if "exec" in probe:
            code, output = await self._execute(list(probe["exec"]["command"]))
            return Outcome(code == 0, f"exit status {code}: {output.strip()[-200:]}")
        raise ValueError("probe has none of httpGet, tcpSocket, exec")

    async def _connect(self, host: str | None, port: int | str) -> trio.SocketStream:
        number = self._ports.get(port) if isinstance(port, str) else port
        if number is None:
            raise ValueError(f"no container port is named {port!r}")
        sock = self._node.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
        stream_socket = trio.socket.from_stdlib_socket(sock)
        try:
            await stream_socket.connect((host or self._address, int(number)))
        except BaseException:
            stream_socket.close()
            raise
        return trio.SocketStream(stream_socket)

    async def _http(self, target: Mapping[str, Any]) -> Outcome:
        stream: trio.abc.Stream = await self._connect(target.get("host"), target["port"])
        if target.get("scheme", "HTTP") == "HTTPS":
            stream = trio.SSLStream(stream, _unverified(), https_compatible=True)
        headers = {"Host": f"{self._address}", "User-Agent": "kube-probe/1.31", "Accept": "*/*"}
        headers |= {h["name"]: h["value"] for h in target.get("httpHeaders") or []}
        lines = [f"GET {target.get('path') or '/'} HTTP/1.1", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = b""
        try:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode())
            while b"\r\n" not in head and len(head) < 8192:
                chunk = await stream.receive_some(4096)
                if not chunk:
                    break
                head += chunk
        finally:
            await trio.aclose_forcefully(stream)
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) < 2 or not words[1].isdigit():
            raise ValueError("the answer is not HTTP")
        code = int(words[1])
        return Outcome(200 <= code < 400, f"HTTP status {code}")


def _unverified() -> ssl.SSLContext:
    """As the kubelet's: an HTTPS probe does not look at the certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
