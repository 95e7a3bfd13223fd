"""One ADS stream: grpcio's blocking API on a worker thread, a bounded channel into trio."""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.api.pb import discovery_pb2 as pb

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
MAX_MESSAGE_BYTES: Final = 200 << 20
"""ztunnel src/xds/client.rs; a first answer of a large mesh has tens of megabytes."""
PENDING_RESPONSES: Final = 2
"""Read ahead of whoever applies them; the rest waits in HTTP/2's window."""
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # The control plane is inside the mesh; a proxy of the environment is not on the way.
    ("grpc.enable_http_proxy", 0),
    # A new channel is a new connection, not a shared one that is still backing off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Doubles as the time that one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


class XdsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the control plane is and how we prove who we are.

    ``address`` is ``host:port``; ``root_ca_file`` verifies the server, whose certificate has to
    name ``alt_hostname`` (empty: the host of the address). An empty ``root_ca_file`` means plain
    text. Both files are read again for every connection.
    """

    address: str
    root_ca_file: str
    token_file: str
    cluster_id: str = "Kubernetes"
    alt_hostname: str = ""
    headers: dict[str, str] = {}
    """More metadata for every call."""


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


async def run_stream(settings: XdsSettings, requests: Requests, answer: Answer) -> None:
    """One stream until its end; sends ``requests`` as they come. Cancelling ends the call and its
    threads.

    Always raises: StreamEndedError at the end, MeshError where our own files cannot be used.
    """
    metadata = [("clusterid", settings.cluster_id), *_bearer(settings)]
    metadata += [(name.lower(), value) for name, value in settings.headers.items()]
    channel = _channel(settings)
    call: Any = channel.stream_stream(
        METHOD,
        request_serializer=pb.DeltaDiscoveryRequest.SerializeToString,
        response_deserializer=_sized,
    )(iter(requests.get, None), metadata=tuple(metadata))
    send, receive = trio.open_memory_channel[tuple[Any, int]](PENDING_RESPONSES)
    ended = StreamEndedError("the control plane closed the stream", None)

    def pump() -> None:
        """On a thread: blocked in ``call`` until a message, or until ``call.cancel()``."""
        nonlocal ended
        try:
            for item in call:
                trio.from_thread.run(send.send, item)
        except grpc.RpcError as err:
            ended = _ended(settings, err)
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


def _channel(settings: XdsSettings) -> grpc.Channel:
    if not settings.root_ca_file:
        return grpc.insecure_channel(settings.address, CHANNEL_OPTIONS)
    root = _read(settings.root_ca_file, "root certificate")
    name = settings.alt_hostname
    override = (("grpc.ssl_target_name_override", name),) if name else ()
    credentials = grpc.ssl_channel_credentials(root)
    return grpc.secure_channel(settings.address, credentials, (*CHANNEL_OPTIONS, *override))


def _bearer(settings: XdsSettings) -> list[tuple[str, str]]:
    if not settings.token_file:
        return []
    token = _read(settings.token_file, "token").decode("ascii", "replace").strip()
    if not token:
        raise MeshError(f"the token file {settings.token_file} is empty")
    return [("authorization", f"Bearer {token}")]


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as err:
        raise MeshError(
            f"cannot read the {what} file {path}: {err.strerror}",
            hint="is the volume mounted into this program?",
        ) from None


def _ended(settings: XdsSettings, err: grpc.RpcError) -> StreamEndedError:
    code: grpc.StatusCode = err.code()
    hints = {
        grpc.StatusCode.UNAVAILABLE: f"is the control plane up at {settings.address}, and does "
        f"{settings.root_ca_file or 'its root'} match its certificate?",
        grpc.StatusCode.UNAUTHENTICATED: "is the token current and for this control plane?",
    }
    text = f"xDS gRPC error ({code.name}): {err.details() or 'no details'}"
    return StreamEndedError(text, code, hint=hints.get(code, ""))
