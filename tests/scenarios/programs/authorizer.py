"""An authorizer that passes requests with ``x-ext-authz: allow``: by gRPC on 9000, HTTP on 8000.

It says who decided (``x-ext-authz-check-result``), and hands the application what it was asked
(``x-ext-authz-check-received``). ``x-decided-by`` is what an authorizer by gRPC notes for policies.
"""

from __future__ import annotations

import signal
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf import struct_pb2
from google.rpc.status_pb2 import Status

WANTED = "x-ext-authz"
RESULT = "x-ext-authz-check-result"
RECEIVED = "x-ext-authz-check-received"
DENIED = "denied by the authorizer: no header x-ext-authz: allow\n"


def option(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, value=value))


class Authorization(external_auth_pb2_grpc.AuthorizationServicer):
    def Check(self, request, context):  # noqa: N802 - gRPC's name
        http = request.attributes.request.http
        source = request.attributes.source.principal
        asked = f"{http.method} {http.path} from {source}"
        if http.headers.get(WANTED) != "allow":
            return CheckResponse(
                status=Status(code=grpc.StatusCode.PERMISSION_DENIED.value[0]),
                denied_response=DeniedHttpResponse(
                    status=HttpStatus(code=403), headers=[option(RESULT, "denied")], body=DENIED
                ),
            )
        noted = struct_pb2.Struct()
        noted.update({"team": http.headers.get("x-team", "")})
        allowed = external_auth_pb2.OkHttpResponse(
            headers=[option(RESULT, "allowed"), option(RECEIVED, asked)],
            headers_to_remove=["x-secret"],
            response_headers_to_add=[option("x-decided-by", "grpc")],
        )
        return CheckResponse(status=Status(), ok_response=allowed, dynamic_metadata=noted)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def check(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size).decode()
        passes = self.headers.get(WANTED) == "allow"
        answer = b"" if passes else DENIED.encode()
        self.send_response(200 if passes else 403)
        self.send_header(RESULT, "allowed" if passes else "denied")
        self.send_header(RECEIVED, f"{self.command} {self.path} {body}".strip())
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = check  # noqa: N815


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Authorization(), server)
    server.add_insecure_port("0.0.0.0:9000")
    server.start()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ThreadingHTTPServer(("", 8000), Handler).serve_forever()


main()
