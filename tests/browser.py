"""A real Chromium without a window, driven by its own protocol (Chrome DevTools Protocol)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import websocket

DEADLINE_S = 60


def missing() -> str:
    """Why there is no browser; empty where there is one."""
    return "" if shutil.which("chromium") else "apt-get install --no-install-recommends chromium"


class Tab:
    """One page."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, suppress_origin=True, timeout=DEADLINE_S)
        self._number = 0
        self.errors: list[str] = []
        """Exceptions, and messages that the browser itself has for developers."""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(request))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            elif message.get("method") == "Log.entryAdded":
                self.errors.append(message["params"]["entry"]["text"])

    def open(self, url: str) -> None:
        """Until all of the page is there, and not the one before it."""
        self.evaluate("window.before = true")
        begun = self.call("Page.navigate", url=url)
        same = "loaderId" not in begun  # another fragment of the same document
        arrived = "true" if same else "!window.before"
        self.until(
            f"{arrived} && document.readyState === 'complete' && location.protocol === 'http:'"
        )

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """The first true value of an expression."""
        deadline = time.monotonic() + DEADLINE_S
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, (
                expression,
                self.evaluate("document.body.innerText"),
            )
            time.sleep(0.1)
        return value

    def close(self) -> None:
        self._socket.close()


@contextmanager
def chromium() -> Iterator[Tab]:
    """A browser with one empty tab; all its files, those it would leave in /tmp too, go with it."""
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        yield from _chromium(folder)


def _chromium(folder: str) -> Iterator[Tab]:
    process = subprocess.Popen(
        [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--window-size=1280,800", "--remote-debugging-port=0",
            f"--user-data-dir={folder}/profile", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": folder},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        port = next(
            found[1]
            for line in process.stderr
            if (found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line))
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            (page,) = (one for one in json.load(answer) if one["type"] == "page")
        tab = Tab(page["webSocketDebuggerUrl"])
        try:
            yield tab
        finally:
            tab.close()
    finally:
        process.terminate()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
