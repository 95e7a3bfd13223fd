"""The program ``ztunnel`` as a process of its own, in the test's network namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import httpx
import trio

READY = "http://localhost:15021/healthz/ready"


class Program:
    """One running ztunnel and its output."""

    def __init__(self, process, output):
        self.process = process
        self._output = output

    def access_log(self):
        return [line for line in self._lines() if line["scope"] == "access"]

    def events(self):
        return [line["message"] for line in self._lines()]

    def _lines(self):
        """What it logged so far; the last line may still be half written."""
        whole, _, _ = self._output.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def worker_pid(self, number):
        started = [one for one in self._lines() if one["message"] == "worker.started"]
        return [one["pid"] for one in started if one["worker"] == number][-1]

    async def until_ready(self):
        await self.until_answer(lambda answer: answer == "ready\n")

    async def until_answer(self, condition):
        async with httpx.AsyncClient(trust_env=False) as http:
            with trio.fail_after(30):
                while not condition(await self._ask(http)):
                    assert self.process.poll() is None, self._output.read_text()
                    await trio.sleep(0.02)

    async def _ask(self, http):
        try:
            # A new connection each time, as a kubelet makes them: it reaches the youngest tunnel.
            return (await http.get(READY, headers={"connection": "close"})).text
        except httpx.TransportError:
            return ""

    async def until_logged(self, event):
        with trio.fail_after(30):
            while event not in self.events():
                assert self.process.poll() is None, self._output.read_text()
                await trio.sleep(0.02)

    async def until_access_logged(self, *directions):
        """The lines of ended connections, once there is one of each direction."""
        with trio.fail_after(30):
            while not set(directions) <= {line["direction"] for line in self.completed()}:
                assert self.process.poll() is None, self._output.read_text()
                await trio.sleep(0.02)
        return self.completed()

    def completed(self):
        return [one for one in self.access_log() if one["message"] == "connection complete"]

    async def ended(self):
        """Its exit code."""
        with trio.fail_after(30):
            while self.process.poll() is None:
                await trio.sleep(0.02)
        return self.process.returncode


def start(output, env):
    command = [sys.executable, "-m", "ztunnel", "proxy", "ztunnel"]
    with output.open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=env)


@asynccontextmanager
async def ztunnel(tmp_path, control, agent_path, **more):
    settings = control.settings()
    output = tmp_path / f"ztunnel-{len(list(tmp_path.glob('ztunnel-*')))}.log"
    env = os.environ | {
        "XDS_ADDRESS": f"https://{settings['address']}",
        "CA_ADDRESS": settings["address"],
        "XDS_ROOT_CA": settings["root_ca_file"],
        "CA_ROOT_CA": settings["root_ca_file"],
        "AUTH_TOKEN": settings["token_file"],
        "ALT_XDS_HOSTNAME": settings["alt_hostname"],
        "ALT_CA_HOSTNAME": settings["alt_hostname"],
        "INPOD_UDS": str(agent_path),
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "debug",
        **more,
    }
    process = start(output, env)
    try:
        yield Program(process, output)
    finally:
        process.kill()
        process.wait()
