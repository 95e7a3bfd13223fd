"""A service whose conversations are long: gRPC both ways (9000), WebSocket (8000)."""

from __future__ import annotations

import socketserver
from concurrent import futures

import grpc
import wsproto
from wsproto import events


def echo(requests, context):
    """Every message comes back at once, numbered; metadata both ways."""
    asked = dict(context.invocation_metadata())
    context.send_initial_metadata([("x-hello", asked.get("x-name", ""))])
    count = 0
    for count, message in enumerate(requests, 1):
        yield b"%d %s" % (count, message)
    context.set_trailing_metadata([("x-count", str(count))])


def count_up(request, context):
    """As many answers as the request is long."""
    yield from (str(number).encode() for number in range(len(request)))


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not in this mood")


METHODS = {
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "CountUp": grpc.unary_stream_rpc_method_handler(count_up),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
}


class WebSocket(socketserver.BaseRequestHandler):
    """Sends every message back in capitals."""

    def handle(self) -> None:
        talk = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        heard = ""
        while data := self.request.recv(65536):
            talk.receive_data(data)
            for event in talk.events():
                match event:
                    case events.Request():
                        chosen = next(iter(event.subprotocols), None)
                        answer = talk.send(events.AcceptConnection(subprotocol=chosen))
                    case events.TextMessage():
                        heard += event.data
                        if not event.message_finished:
                            continue
                        answer = talk.send(events.TextMessage(heard.upper()))
                        heard = ""
                    case events.Ping() | events.CloseConnection():
                        answer = talk.send(event.response())
                    case _:
                        continue
                self.request.sendall(answer)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Chat", METHODS)])
    server.add_insecure_port("0.0.0.0:9000")
    server.start()
    Server(("", 8000), WebSocket).serve_forever()


main()
