"""The sample application: a bookshop in four small HTTP services, all in this file.

    python bookinfo.py SERVICE        productpage | details | reviews | ratings

productpage asks details and reviews; reviews v2 and v3 ask ratings. Every answer is JSON and says
which service, version and pod gave it. The standard library only: it starts in a blink.

Environment: VERSION (v1), POD_NAME, PORT (9080), ECHO_PORT (none; also echo lines on this TCP
port), DETAILS, REVIEWS, RATINGS (host:port of the others).
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = os.environ.get("VERSION", "v1")
POD = os.environ.get("POD_NAME") or os.environ.get("HOSTNAME", "")
UPSTREAM_TIMEOUT_S = 5.0
MAX_BODY_BYTES = 1 << 20
MAX_REVIEWS = 100
"""Kept in memory, the newest of them."""
HANDED_ON = (
    "x-request-id", "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid",
    "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", "authorization", "end-user",
)  # fmt: skip
"""Headers that a service copies from its caller to those it asks."""

BOOK = {
    "title": "The Comedy of Errors",
    "author": "William Shakespeare",
    "year": 1595,
    "pages": 200,
    "type": "paperback",
    "publisher": "PublisherA",
    "language": "English",
}

reviews: list[dict[str, Any]] = [
    {"reviewer": "Reviewer1", "text": "An extremely entertaining play. Fun from start to end!"},
    {"reviewer": "Reviewer2", "text": "Absolutely fun, yet the end comes a little quickly."},
]
stars: dict[str, int] = {"Reviewer1": 5, "Reviewer2": 4}
lock = threading.Lock()
busy: set[Handler] = set()
"""Those that have a request and have not sent its answer."""


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One connection; HTTP/1.1 with keep-alive."""

    protocol_version = "HTTP/1.1"
    server_version = "bookinfo"
    sys_version = ""
    # One write per answer: head and body apart would wait for each other's acknowledgement.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    service = ""

    def parse_request(self) -> bool:
        busy.add(self)
        return super().parse_request()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        finally:
            busy.discard(self)

    def answer(self) -> None:
        """Any method: find the service's function, send what it returns."""
        try:
            size = int(self.headers.get("Content-Length") or 0)
            if not 0 <= size <= MAX_BODY_BYTES:
                raise RefusedError(413, "body too large")
            body = self.rfile.read(size)
            status, content = 200, self.route(body)
        except RefusedError as refused:
            status, content = refused.status, {"error": str(refused)}
        except ValueError as error:
            status, content = 400, {"error": f"bad request: {error}"}
        content = {"service": self.service, "version": VERSION, "pod": POD, **content}
        data = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer  # noqa: N815

    def route(self, body: bytes) -> dict[str, Any]:
        """The content of the answer. Raises RefusedError."""
        path = self.path.split("?", 1)[0]
        if path == "/health":
            return {"status": "ok"}
        if path == "/headers":
            return {"method": self.command, "path": self.path, "headers": dict(self.headers)}
        top = path.strip("/").split("/", 1)[0] or "productpage"
        if top != self.service:
            raise RefusedError(404, f"{self.service} has no {path}")
        return {
            "productpage": self.product_page,
            "details": self.details,
            "reviews": self.reviews,
            "ratings": self.ratings,
        }[self.service](body)

    def product_page(self, _: bytes) -> dict[str, Any]:
        return {
            "details": self.ask("DETAILS", "details:9080", "/details/0"),
            "reviews": self.ask("REVIEWS", "reviews:9080", "/reviews/0"),
        }

    def details(self, _: bytes) -> dict[str, Any]:
        return {"id": 0, **BOOK}

    def reviews(self, body: bytes) -> dict[str, Any]:
        global reviews
        with lock:
            if self.command == "POST":
                review = json.loads(body)
                if not isinstance(review, dict) or not isinstance(review.get("text"), str):
                    raise ValueError('a review is {"reviewer": "...", "text": "..."}')
                name = str(review.get("reviewer", "anonymous"))
                reviews = [*reviews, {"reviewer": name, "text": review["text"]}][-MAX_REVIEWS:]
            elif self.command == "DELETE":
                reviews = []
            shown = [dict(review) for review in reviews]
        if VERSION != "v1":
            answer = self.ask("RATINGS", "ratings:9080", "/ratings/0")
            rated = answer.get("ratings", {})
            for review in shown:
                review["stars"] = rated.get(review["reviewer"])
                review["color"] = "black" if VERSION == "v2" else "red"
            return {"id": 0, "reviews": shown, "ratings": answer}
        return {"id": 0, "reviews": shown}

    def ratings(self, body: bytes) -> dict[str, Any]:
        with lock:
            if self.command == "POST":
                wanted = json.loads(body)
                if not isinstance(wanted, dict):
                    raise ValueError('ratings are {"reviewer": stars}')
                stars.update({str(name): int(count) for name, count in wanted.items()})
            return {"id": 0, "ratings": dict(stars)}

    def ask(self, variable: str, default: str, path: str) -> dict[str, Any]:
        """Ask another service, on a new connection; an error is part of the answer."""
        host = os.environ.get(variable, default)
        connection = http.client.HTTPConnection(host, timeout=UPSTREAM_TIMEOUT_S)
        headers = {name: self.headers[name] for name in HANDED_ON if name in self.headers}
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            data = answer.read(MAX_BODY_BYTES)
            if answer.status != 200:
                return {"error": f"{host} answered {answer.status}", "status": answer.status}
            found: dict[str, Any] = json.loads(data)
            return found
        except (OSError, http.client.HTTPException, ValueError) as error:
            return {"error": f"{host}: {error}"}
        finally:
            connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        if self.path != "/health":
            print(f"{self.client_address[0]} {format % args}", flush=True)


class Echo(socketserver.BaseRequestHandler):
    """Sends every byte back."""

    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(ThreadingHTTPServer):
    """A thread per connection."""

    request_queue_size = 512
    daemon_threads = True


class EchoServer(socketserver.ThreadingTCPServer):
    """The same for echo."""

    allow_reuse_address = True
    request_queue_size = 512
    daemon_threads = True


def main() -> None:
    """Serve until SIGTERM, then finish what is being answered."""
    Handler.service = sys.argv[1]
    server = Server(("", int(os.environ.get("PORT", "9080"))), Handler)
    if "ECHO_PORT" in os.environ:
        echo = EchoServer(("", int(os.environ["ECHO_PORT"])), Echo)
        threading.Thread(target=echo.serve_forever, daemon=True).start()
    signal.signal(
        signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start()
    )
    print(f"{Handler.service} {VERSION} serves on port {server.server_port}", flush=True)
    server.serve_forever()
    server.server_close()
    while busy:
        time.sleep(0.01)


if __name__ == "__main__":
    main()
