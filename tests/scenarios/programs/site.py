"""A web site outside the mesh: HTTP on 18000, HTTPS on 18443.

Every answer says which server name was asked for, who the client is, and the request's headers.
``CERTIFICATES`` is a folder with ``site.pem`` (with its key) and ``ca.pem``, for clients.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked = threading.local()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        shown = {
            "path": self.path,
            "secure": isinstance(self.connection, ssl.SSLSocket),
            "sni": getattr(self.connection, "asked_for", None),
            "client": _subject(self.connection),
            "headers": dict(self.headers),
        }
        body = json.dumps(shown).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815


def _subject(connection) -> str:
    found = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    return str(found["subject"]) if found else ""


def note(connection, name, context) -> None:
    connection.asked_for = name


def main() -> None:
    folder = os.environ["CERTIFICATES"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/site.pem")
    context.load_verify_locations(f"{folder}/ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.sni_callback = note
    secure = ThreadingHTTPServer(("", 18443), Handler)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=secure.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("", 18000), Handler).serve_forever()


main()
