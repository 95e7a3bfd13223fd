"""One ADS stream: grpcio's blocking API on a worker thread, a bounded channel into trio."""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import trio

from ambient.api.errors import MeshError
from ambient.api.pb import discovery_pb2 as pb
from ambient.identity.io.grpc_server import GrpcServer

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
MAX_MESSAGE_BYTES: Final = 200 << 20
"""ztunnel src/xds/client.rs; a first answer of a large mesh has tens of megabytes."""
PENDING_RESPONSES: Final = 2
"""Read ahead of whoever applies them; the rest waits in HTTP/2's window."""
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Doubles as the time that one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


class StreamEndedError(MeshError):
    """The stream is over; ``code`` is gRPC's, None where the server simply closed."""

    def __init__(self, message: str, code: grpc.StatusCode | None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


Requests = queue.SimpleQueue[pb.DeltaDiscoveryRequest | None]
"""The first request of each type, one for each response and each demand; None ends the stream. It
stays short without a bound."""
Answer = Callable[[pb.DeltaDiscoveryResponse, int], Awaitable[pb.DeltaDiscoveryRequest]]
"""Takes a response and its size in bytes, gives the ACK or NACK."""


async def run_stream(server: GrpcServer, requests: Requests, answer: Answer) -> None:
    """One stream until its end; sends ``requests`` as they come. Cancelling ends the call and its
    threads.

    Always raises: StreamEndedError at the end, MeshError where our own files cannot be used.
    """
    metadata = server.metadata()
    channel = server.channel(server.root(), *CHANNEL_OPTIONS)
    call: Any = channel.stream_stream(
        METHOD,
        request_serializer=pb.DeltaDiscoveryRequest.SerializeToString,
        response_deserializer=_sized,
    )(iter(requests.get, None), metadata=metadata)
    send, receive = trio.open_memory_channel[tuple[Any, int]](PENDING_RESPONSES)
    ended = StreamEndedError("the control plane closed the stream", None)

    def pump() -> None:
        """On a thread: blocked in ``call`` until a message, or until ``call.cancel()``."""
        nonlocal ended
        try:
            for item in call:
                trio.from_thread.run(send.send, item)
        except grpc.RpcError as err:
            ended = _ended(server, err)
        except (trio.Cancelled, trio.BrokenResourceError):
            call.cancel()

    async def run_pump() -> None:
        async with send:
            await trio.to_thread.run_sync(pump)

    try:
        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(run_pump)
            try:
                async for response, size in receive:
                    requests.put(await answer(response, size))
            finally:
                # A blocked thread hears of no cancel scope; these two lines wake both of them.
                call.cancel()
                requests.put(None)
    finally:
        channel.close()
    raise ended


def _sized(raw: bytes) -> tuple[pb.DeltaDiscoveryResponse, int]:
    return pb.DeltaDiscoveryResponse.FromString(raw), len(raw)


def _ended(server: GrpcServer, err: grpc.RpcError) -> StreamEndedError:
    code: grpc.StatusCode = err.code()
    hints = {
        grpc.StatusCode.UNAVAILABLE: server.unavailable_hint(),
        grpc.StatusCode.UNAUTHENTICATED: "is the token current and for this control plane?",
    }
    text = f"xDS gRPC error ({code.name}): {err.details() or 'no details'}"
    return StreamEndedError(text, code, hint=hints.get(code, ""))
