"""A collector: takes spans and logs by OTLP over gRPC (4317), and Zipkin's spans (8000).

It shows them on port 8000. ``GET /spans``, ``GET /logs``: JSON as OTLP writes it, one object a span
or a log record, with the attributes flattened and the service's name beside them. ``GET
/api/v2/spans``: what was posted there.
"""

from __future__ import annotations

import json
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from ambient.api.pb import otlp_pb2

SHOWN: dict[str, list[dict[str, Any]]] = {"/spans": [], "/logs": [], "/api/v2/spans": []}


def flat(attributes) -> dict[str, Any]:
    found = (MessageToDict(one) for one in attributes)
    return {one["key"]: next(iter(one.get("value", {"": ""}).values()), "") for one in found}


def one(record, resource) -> dict[str, Any]:
    shown = MessageToDict(record, preserving_proto_field_name=True)
    for name in ("trace_id", "span_id", "parent_span_id"):
        shown[name] = getattr(record, name, b"").hex()
    service = flat(resource.attributes).get("service.name", "")
    return {**shown, "attributes": flat(record.attributes), "service": service}


def take_spans(request, context) -> None:
    for found in request.resource_spans:
        spans = (span for scope in found.scope_spans for span in scope.spans)
        SHOWN["/spans"] += [one(span, found.resource) for span in spans]


def take_logs(request, context) -> None:
    for found in request.resource_logs:
        records = (record for scope in found.scope_logs for record in scope.log_records)
        SHOWN["/logs"] += [one(record, found.resource) for record in records]


def service(signal: str, take, request) -> grpc.GenericRpcHandler:
    # The answer that everything was taken is an empty message.
    handler = grpc.unary_unary_rpc_method_handler(take, request.FromString, lambda _: b"")
    name = f"opentelemetry.proto.collector.{signal.lower()}.v1.{signal}Service"
    return grpc.method_handlers_generic_handler(name, {"Export": handler})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        SHOWN[self.path] += json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.answer([])

    def do_GET(self) -> None:
        self.answer(SHOWN.get(self.path, []))

    def answer(self, shown: list[Any]) -> None:
        body = json.dumps(shown).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        [
            service("Trace", take_spans, otlp_pb2.ExportTraceServiceRequest),
            service("Logs", take_logs, otlp_pb2.ExportLogsServiceRequest),
        ]
    )
    server.add_insecure_port("0.0.0.0:4317")
    server.start()
    ThreadingHTTPServer(("", 8000), Handler).serve_forever()


main()
