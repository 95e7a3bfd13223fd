"""A web server whose documents are put there by its clients: PUT, then GET (port 8000)."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

documents: dict[str, bytes] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = documents.get(self.path)
        self.answer(404 if body is None else 200, body or b"")

    def do_PUT(self) -> None:
        documents[self.path] = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.answer(200, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", 8000), Handler).serve_forever()
