"""``POST /call``: a real connection from inside a pod, as its application would make it. Asked by
``ambientctl why --probe``.

The socket is made in the pod's network namespace and carries no mark, so that the pod's
redirection takes it to our own outbound port and it goes the whole way: tunnel, waypoint, policies,
application. Nothing of the pod is needed for that, neither a shell nor curl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import h11
import msgspec
import trio

from ambient.api.errors import MeshError
from ambient.net.io.sockets import connect_in, local_address
from ambient.telemetry.core.access_record import AccessRecord, Direction
from ztunnel.core.call import Call, Called, HttpRequest, Outcome
from ztunnel.io.node import Node
from ztunnel.io.pods import PodProxy

WHOLE_S: Final = 12.0
"""Our own dial gives up after 10 s (``ambient.net.io.sockets``), and that is an answer, too."""
QUIET_S: Final = 1.0
"""A refusal follows within one round trip; who says nothing for so long lets the client speak."""
LOOK_S: Final = 0.05
MAX_BODY_BYTES: Final = 256
"""Of the answer; enough to tell a proxy's words from an application's."""
READ_BYTES: Final = 4096


def read_call(body: bytes) -> Call:
    """Raises ValueError for what cannot be meant."""
    try:
        call = msgspec.json.decode(body, type=Call)
        call.address()
        if call.http is not None:
            _wire(h11.Connection(h11.CLIENT), call.http)
    except (msgspec.MsgspecError, h11.LocalProtocolError) as error:
        raise ValueError(str(error)) from error
    return call


async def make_call(node: Node, pod: PodProxy, call: Call) -> Called:
    """Connect, send the request, and tell how it went."""
    began = trio.current_time()
    told = Called()
    with node.connections.overheard() as records, trio.move_on_after(WHOLE_S) as limit:
        try:
            await _call(pod, call, records, told)
        except MeshError as error:
            told.error = str(error)
    if limit.cancelled_caught and told.outcome is Outcome.FAILED:  # an answer may go on for ever
        told.outcome = Outcome.SILENT
        told.error = f"no answer within {WHOLE_S:g} s"
    told.seconds = round(trio.current_time() - began, 4)
    return told


async def _call(pod: PodProxy, call: Call, records: Sequence[AccessRecord], told: Called) -> None:
    sock = await connect_in(pod.netns, call.address(), timeout_s=WHOLE_S)
    source = local_address(sock)

    def ours() -> AccessRecord | None:
        out = (one for one in records if one.direction is Direction.OUTBOUND)
        return next((one for one in out if one.source.address == source), None)

    try:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            if call.http is None:
                await _listen(stream, ours, told)
            else:
                await _ask(stream, call.http, told)
    except (trio.BrokenResourceError, OSError):
        told.error = "the connection was reset"
    finally:
        record = ours()
        told.captured = record is not None
        if record is not None and record.error:
            told.error = record.error


async def _listen(
    stream: trio.SocketStream, ours: Callable[[], AccessRecord | None], told: Called
) -> None:
    """Say nothing, and see whether the connection stays."""
    quiet_s = 0.0
    while quiet_s < QUIET_S:
        with trio.move_on_after(LOOK_S):
            data = await stream.receive_some(MAX_BODY_BYTES)
            told.outcome = Outcome.ANSWERED if data else Outcome.CLOSED
            told.body = bytes(data).decode(errors="replace")
            return
        quiet_s += LOOK_S if ours() is not None else 0.0  # until then the tunnel still dials
    told.outcome = Outcome.OPEN


async def _ask(stream: trio.SocketStream, request: HttpRequest, told: Called) -> None:
    """Send a request and read the beginning of the answer."""
    client = h11.Connection(h11.CLIENT)
    with suppress(trio.BrokenResourceError):  # what was answered before the reset can be read
        await stream.send_all(_wire(client, request))
    body = bytearray()
    first = b""
    while len(body) < MAX_BODY_BYTES:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError as error:
            told.error = f"no answer in HTTP/1.1: {error}" if first else ""
            told.outcome = Outcome.ANSWERED if first else Outcome.CLOSED
            told.body = told.body or first[:MAX_BODY_BYTES].decode(errors="replace")
            return
        match event:
            case h11.NEED_DATA:
                data = bytes(await stream.receive_some(READ_BYTES))
                first = first or data
                if not b"HTTP/".startswith(first[:5]):  # h11 would wait for the end of a head
                    told.outcome, told.error = Outcome.ANSWERED, "no answer in HTTP/1.1"
                    told.body = first[:MAX_BODY_BYTES].decode(errors="replace")
                    return
                client.receive_data(data)
            case h11.Response(status_code=code, headers=headers):
                told.outcome, told.status = Outcome.ANSWERED, code
                told.headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in headers}
            case h11.Data(data=data):
                body += data
                told.body = body[:MAX_BODY_BYTES].decode(errors="replace")
            case h11.EndOfMessage() | h11.ConnectionClosed():
                return
            case _:
                pass  # 1xx


def _wire(client: h11.Connection, request: HttpRequest) -> bytes:
    """The request's bytes. Raises LocalProtocolError for what HTTP/1.1 does not allow."""
    headers = [*request.headers, ("connection", "close")]
    head = h11.Request(method=request.method, target=request.path, headers=headers)
    return (client.send(head) or b"") + (client.send(h11.EndOfMessage()) or b"")
