"""WebSockets over HTTP/1.1 and HTTP/2 (RFC 8441), whichever of them each side speaks."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    RejectConnection,
    Request,
    TextMessage,
)

from ambient.api.service import AppProtocol
from tests.unit.waypoint.io.http2_peers import GET, http2_caller
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.io.test_http2_server import declare
from tests.unit.waypoint.sample import config
from waypoint.core.websocket import accept_of

BOTH = ("127.0.1.1", "127.0.1.2")
EXTENDED = {":protocol": "websocket", ":method": "CONNECT", "sec-websocket-version": "13"}
BIG = 2 << 20
"""Far more than any window."""


def echo(socket, data):
    """What a server answers to bytes: messages as they came, a close for a close."""
    out = b""
    if not data:
        return out
    socket.receive_data(data)
    for event in socket.events():
        match event:
            case TextMessage() | BytesMessage():
                kind = type(event)
                finished = event.message_finished
                out += socket.send(kind(data=event.data, message_finished=finished))
            case CloseConnection():
                out += socket.send(event.response())
    return out


def http1_endpoint(seen):
    async def app(stream):
        socket = WSConnection(ConnectionType.SERVER)
        while data := await stream.receive_some():
            out = b""
            if not seen or seen[-1] is not socket:
                socket.receive_data(data)
                (asked,) = socket.events()
                assert isinstance(asked, Request)
                seen.append(socket)
                if asked.target == "/no":
                    await stream.send_all(socket.send(RejectConnection(status_code=403)))
                    return
                out = socket.send(AcceptConnection())
            else:
                out = echo(socket, data)
            await stream.send_all(out)

    return app


def http2_endpoint(seen, *, offers=True, status="200"):
    async def app(stream):
        server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        if offers:
            server.local_settings = h2.settings.Settings(
                client=False,
                initial_values={h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1},
            )
        server.initiate_connection()
        await stream.send_all(server.data_to_send())
        sockets, waiting = {}, {}
        while data := await stream.receive_some():
            for event in server.receive_data(data):
                match event:
                    case h2.events.RequestReceived():
                        seen.append(dict(event.headers))
                        server.send_headers(event.stream_id, [(":status", status)])
                        sockets[event.stream_id] = Connection(ConnectionType.SERVER)
                        waiting[event.stream_id] = bytearray()
                    case h2.events.DataReceived():
                        server.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                        waiting[event.stream_id] += echo(sockets[event.stream_id], event.data)
                    case h2.events.StreamEnded():
                        server.end_stream(event.stream_id)
            for stream_id, out in waiting.items():
                while out and (room := server.local_flow_control_window(stream_id)):
                    room = min(room, server.max_outbound_frame_size)
                    server.send_data(stream_id, bytes(out[:room]))
                    del out[:room]
            await stream.send_all(server.data_to_send())

    return app


class Client:
    """One WebSocket; ``out`` takes bytes, ``chunks`` gives those that came."""

    def __init__(self, socket, send, receive):
        self.socket, self._send, self._receive = socket, send, receive
        self.messages = []
        self.closed = None
        self._part = b""

    async def say(self, event):
        await self._send(self.socket.send(event))

    async def until(self, done):
        while not done(self):
            data = await self._receive()
            assert data, "the connection ended"
            self.socket.receive_data(data)
            for event in self.socket.events():
                match event:
                    case TextMessage() | BytesMessage():
                        self._part += (
                            event.data.encode() if isinstance(event.data, str) else event.data
                        )
                        if event.message_finished:
                            self.messages.append(self._part)
                            self._part = b""
                    case CloseConnection():
                        self.closed = event.code

    async def converse(self):
        """A text, something big, and an end in order."""
        await self.say(TextMessage(data="hello"))
        await self.until(lambda one: one.messages == [b"hello"])
        big = b"x" * BIG
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.say, BytesMessage(data=big))
            await self.until(lambda one: len(one.messages) == 2)
        assert self.messages[1] == big
        await self.say(CloseConnection(code=1000))
        await self.until(lambda one: one.closed == 1000)


async def http1_client(mesh, target="/"):
    stream = await mesh.open()
    socket = WSConnection(ConnectionType.CLIENT)
    await stream.send_all(socket.send(Request(host="reviews:9080", target=target)))
    while True:
        socket.receive_data(await stream.receive_some())
        # wsproto has checked the proof that the server gives
        if accepted := list(socket.events()):
            return accepted[0], Client(socket, stream.send_all, stream.receive_some)


async def http2_client(mesh, **head):
    caller = await http2_caller(mesh)
    await caller.until(lambda: caller.h2.remote_settings.enable_connect_protocol == 1)
    stream_id = await caller.send(GET | EXTENDED | head, end=False)
    answer = caller.answers[stream_id]
    await caller.until(lambda: answer.headers or answer.over)
    taken = 0

    async def send(data):
        while data:
            await caller.until(lambda: caller.h2.local_flow_control_window(stream_id) > 0)
            room = min(
                caller.h2.local_flow_control_window(stream_id), caller.h2.max_outbound_frame_size
            )
            caller.h2.send_data(stream_id, data[:room])
            data = data[room:]
            await caller.flush()

    async def receive():
        nonlocal taken
        await caller.until(lambda: len(answer.body) > taken or answer.over)
        new = answer.body[taken:]
        taken += len(new)
        return new

    client = Client(Connection(ConnectionType.CLIENT), send, receive)
    client.caller, client.stream_id = caller, stream_id
    return answer, client


async def serve(mesh, app, protocol=AppProtocol.HTTP11):
    declare(mesh, protocol)
    for ip in BOTH:
        await mesh.app(ip, app)


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_client_of_http1(version):
    seen = []
    async with rig(apps=False) as mesh:
        if version == "2":
            await serve(mesh, http2_endpoint(seen), AppProtocol.HTTP2)
        else:
            await serve(mesh, http1_endpoint(seen))
        accepted, client = await http1_client(mesh)
        assert isinstance(accepted, AcceptConnection)
        await client.converse()
        if version == "2":
            (head,) = seen
            assert (head[b":method"], head[b":protocol"]) == (b"CONNECT", b"websocket")


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_client_of_http2(version):
    seen = []
    async with rig(apps=False) as mesh:
        if version == "2":
            await serve(mesh, http2_endpoint(seen), AppProtocol.HTTP2)
        else:
            await serve(mesh, http1_endpoint(seen))
        answer, client = await http2_client(mesh)
        assert answer.status == 200
        assert not {"upgrade", "sec-websocket-accept"} & answer.headers.keys()
        await client.converse()
        # Others go on beside it, on the same connection.
        client.caller.h2.end_stream(client.stream_id)
        await client.caller.flush()
        await client.caller.until(lambda: answer.ended)
        assert answer.reset is None


@pytest.mark.parametrize("client", ["1.1", "2"])
async def test_an_endpoint_whose_http2_offers_none_is_asked_in_http1(client):
    """Its port says HTTP/2, which servers that know both understand."""
    one, two = http1_endpoint(seen1 := []), http2_endpoint(seen2 := [], offers=False)

    async def either(stream):
        first = await stream.socket.recv(3, trio.socket.MSG_PEEK)
        await (two if first == b"PRI" else one)(stream)

    async with rig(apps=False) as mesh:
        await serve(mesh, either, AppProtocol.HTTP2)
        if client == "1.1":
            found, talk = await http1_client(mesh)
            assert isinstance(found, AcceptConnection)
        else:
            found, talk = await http2_client(mesh)
            assert found.status == 200
        await talk.converse()
        assert (len(seen1), len(seen2)) == (1, 0)


async def test_what_is_refused_stays_http():
    async with rig(apps=False) as mesh:
        await serve(mesh, http1_endpoint([]))
        answer, client = await http2_client(mesh, **{":path": "/no"})
        await client.caller.until(lambda: answer.over)
        assert answer.status == 403
        assert answer.reset in (None, 0)  # NO_ERROR: what the client might say is not needed
        rejected, _ = await http1_client(mesh, "/no")
        assert (type(rejected), rejected.status_code) == (RejectConnection, 403)


async def test_a_client_of_http2_is_not_told_that_a_page_is_a_websocket():
    async with rig() as mesh:  # applications that know nothing of it
        answer, client = await http2_client(mesh)
        await client.caller.until(lambda: answer.over)
        assert answer.status == 502


async def test_policy_and_routes_see_an_upgrade_as_a_get():
    route = {"match": [{"method": {"exact": "GET"}, "uri": {"prefix": "/chat"}}]}
    target = {"route": [{"destination": {"host": "reviews"}}], "rewrite": {"uri": "/room"}}
    spec = {"hosts": ["reviews"], "http": [{**route, **target}]}
    seen = []
    async with rig(apps=False) as mesh:
        await serve(mesh, http2_endpoint(seen), AppProtocol.HTTP2)
        mesh.configure(config("VirtualService", "reviews", spec))
        answer, client = await http2_client(mesh, **{":path": "/chat"})
        assert answer.status == 200
        await client.converse()
        assert seen[0][b":path"] == b"/room"
        answer, _ = await http2_client(mesh, **{":path": "/other"})
        assert answer.status == 404


async def test_either_side_may_break_off():
    async with rig(apps=False) as mesh:
        await serve(mesh, http1_endpoint([]))
        _, client = await http2_client(mesh)
        await client.say(TextMessage(data="hello"))
        await client.until(lambda one: one.messages)
        before = mesh.upstreams.active
        client.caller.h2.reset_stream(client.stream_id)
        await client.caller.flush()
        assert before == 1
        with trio.fail_after(10):
            while mesh.upstreams.active:
                await trio.sleep(0.01)
        stream_id = await client.caller.send(GET | EXTENDED, end=False)
        another = client.caller.answers[stream_id]
        await client.caller.until(lambda: another.headers)  # the connection goes on
        assert another.status == 200


def test_the_proof_of_rfc_6455():
    assert accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
