"""Says what it was asked, by HTTP on 8080 and gRPC on 7070; or asks such a one by gRPC.

``echo.py call <host:port> <times> [name=value ...]`` prints the answers, one a line.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

METHOD = "/echo.Echo/Say"


def said(headers: dict[str, str], **more: str) -> bytes:
    return json.dumps({"by": os.environ["NAME"], "headers": headers, **more}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            known = headers.get(name.lower())
            headers[name.lower()] = value if known is None else f"{known},{value}"
        body = said(headers, path=self.path)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def say(request: bytes, context: grpc.ServicerContext) -> bytes:
    headers: dict[str, str] = {}
    for name, value in context.invocation_metadata():
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return said(headers)


def call(target: str, times: str, *metadata: str) -> None:
    with grpc.insecure_channel(target) as channel:
        ask = channel.unary_unary(METHOD)
        pairs = [tuple(one.split("=", 1)) for one in metadata]
        for _ in range(int(times)):
            print(ask(b"", metadata=pairs, timeout=10).decode())


def serve() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
    server.add_insecure_port("0.0.0.0:7070")
    server.start()
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()


if sys.argv[1:2] == ["call"]:
    call(*sys.argv[2:])
else:
    serve()
