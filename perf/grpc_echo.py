"""A gRPC application that echoes, and its clients, on the gRPC library.

python -m perf.grpc_echo serve HOST PORT
python -m perf.grpc_echo unary|stream HOST PORT CONCURRENCY SECONDS    (JSON on stdout)
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

UNARY, STREAM = "/perf.Echo/Unary", "/perf.Echo/Stream"
MESSAGE = b"hello"


class Echo(grpc.GenericRpcHandler):
    """Messages are plain bytes."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Both methods give back what they get."""
        if details.method == UNARY:
            return grpc.unary_unary_rpc_method_handler(lambda message, _: message)
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(lambda messages, _: messages)
        return None


def serve(host: str, port: int) -> None:
    """Until the process ends."""
    server = grpc.server(ThreadPoolExecutor(64), handlers=[Echo()])
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    server.wait_for_termination()


def unary(channel: grpc.Channel, until: float) -> int:
    """Calls, one after the other."""
    call = channel.unary_unary(UNARY)
    count = 0
    while time.monotonic() < until:
        assert call(MESSAGE) == MESSAGE
        count += 1
    return count


def stream(channel: grpc.Channel, until: float) -> int:
    """Messages of one stream that come back, one at a time."""
    turn = threading.Semaphore()

    def messages() -> Iterator[bytes]:
        while time.monotonic() < until:
            turn.acquire()
            yield MESSAGE

    count = 0
    for message in channel.stream_stream(STREAM)(messages()):
        assert message == MESSAGE
        count += 1
        turn.release()
    return count


def main() -> None:
    work, host, port, *more = sys.argv[1:]
    if work == "serve":
        serve(host, int(port))
        return
    concurrency, seconds = int(more[0]), float(more[1])
    run = {"unary": unary, "stream": stream}[work]
    channel = grpc.insecure_channel(f"{host}:{port}")
    grpc.channel_ready_future(channel).result(10)
    begin = time.monotonic()
    with ThreadPoolExecutor(concurrency) as threads:
        futures = [threads.submit(run, channel, begin + seconds) for _ in range(concurrency)]
        total = sum(future.result() for future in futures)
    print(json.dumps({"value": total / (time.monotonic() - begin)}))


if __name__ == "__main__":
    main()
