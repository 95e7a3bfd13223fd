"""Bodies, failures and timeouts of single exchanges, with real tunnels on both sides."""

from __future__ import annotations

import pytest
import trio

from ambient.api.type_urls import ADDRESS_TYPE
from ambient.api.workload import WorkloadStatus
from tests.unit.waypoint.io.rig import rig
from tests.unit.waypoint.sample import subsets, to_subset, virtual_service, workload

BOTH = ("127.0.1.1", "127.0.1.2")
MB = 1 << 20


def answering(wire: bytes):
    """An application that reads one piece and says this, then closes."""

    async def app(stream):
        await stream.receive_some()
        await stream.send_all(wire)

    return app


async def test_large_bodies_stream_both_ways():
    size = 16 * MB

    async def echo(stream):
        """Length in, length out; starts to answer before the request is complete."""
        text = b""
        while b"\r\n\r\n" not in text:
            text += await stream.receive_some()
        _, _, body = text.partition(b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        seen = len(body)
        await stream.send_all(body)
        while seen < size:
            body = await stream.receive_some()
            seen += len(body)
            await stream.send_all(body)

    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, echo)
        stream = await mesh.open()
        received = 0

        async def upload():
            await stream.send_all(
                b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
            )
            for _ in range(16):
                await stream.send_all(b"x" * MB)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            text = b""
            while b"\r\n\r\n" not in text:
                text += await stream.receive_some()
            received = len(text.partition(b"\r\n\r\n")[2])
            while received < size:
                received += len(await stream.receive_some())
        assert received == size
        await stream.aclose()


async def test_a_slow_reader_stops_the_application():
    sent = 0

    async def endless(stream):
        nonlocal sent
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x" * MB)
            sent += MB

    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, endless)
        stream = await mesh.open()
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        before = -1
        while not sent or sent != before:  # until nothing moves any more
            before = sent
            await trio.sleep(0.5)
        assert 0 < sent < 64 * MB
        stream.reset()


async def test_chunks_and_trailers_pass_both_ways():
    async with rig() as mesh:
        stream = await mesh.open()
        await stream.send_all(
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 7\r\nhost: evil\r\n\r\n"
        )
        answer = await stream.receive_some()
        assert b'"size": 5' in answer
        assert b'"trailers": {"x-sum": "7"}' in answer
    async with rig(apps=False) as mesh:
        wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        wire += b"3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n"
        for ip in BOTH:
            await mesh.app(ip, answering(wire))
        answer = await (await mesh.caller()).get()
        assert answer.body == b"abc"
        assert [(bytes(n), bytes(v)) for n, v in answer.trailers] == [(b"x-sum", b"9")]


@pytest.mark.parametrize(
    ("wire", "method", "status", "length", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "HEAD", 200, "5", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", 204, None, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", "GET", 304, "5", b""),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", "GET", 200, None, b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", "GET", 200, None, b"old"),
        (
            b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "GET",
            200,
            "0",
            b"",
        ),
    ],
)
async def test_framing_of_responses(wire, method, status, length, body):
    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, answering(wire))
        caller = await mesh.caller()
        for _ in range(2):  # the client's connection goes on in every case
            answer = await caller.get(method=method)
            assert (answer.status, answer.headers.get("content-length")) == (status, length)
            assert answer.body == body


@pytest.mark.parametrize(
    ("wire", "status", "start"),
    [
        (b"", 503, b"upstream connect error or disconnect/reset before headers"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 502, b""),
        (b"garbage\r\n\r\n", 502, b"upstream"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 502, b""),
    ],
)
async def test_what_a_broken_application_means_for_the_client(wire, status, start):
    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, answering(wire))
        caller = await mesh.caller()
        answer = await caller.get()
        assert answer.status == status
        assert answer.body.startswith(start)
        assert (await caller.get()).status == status  # and the connection goes on


async def test_an_application_that_dies_in_the_middle_cuts_the_client_off():
    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, answering(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"))
        stream = await mesh.open()
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        text = bytearray()

        async def read() -> None:
            while data := await stream.receive_some():
                text.extend(data)

        with pytest.raises(trio.BrokenResourceError):
            await read()
        assert text.endswith(b"abc")


async def test_an_unreachable_endpoint_is_replaced_by_another():
    async with rig(apps=False) as mesh:
        await mesh.app("127.0.1.2", answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))
        for _ in range(4):
            assert (await (await mesh.caller()).get()).status == 200


async def test_no_endpoint_at_all():
    async with rig(apps=False) as mesh:
        caller = await mesh.caller()
        refused = await caller.get()
        assert refused.status == 503
        assert b"remote connection failure" in refused.body
        assert b"does the application listen" not in refused.body
        for name, ip in (("reviews-v1", BOTH[0]), ("reviews-v2", BOTH[1])):
            sick = workload(name, ip, "v", status=WorkloadStatus.UNHEALTHY)
            mesh.state.apply(ADDRESS_TYPE, {sick.uid: sick})
        assert (await caller.get()).body == b"no healthy upstream"


async def test_a_kept_connection_that_went_stale_is_not_noticed_by_the_client():
    closing = trio.Event()

    async def once(stream):
        """Answers one request and closes later, when told to."""
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        if not closing.is_set():
            await closing.wait()

    async with rig(apps=False) as mesh:
        mesh.configure(subsets(), virtual_service({"route": [to_subset("v1")]}))
        await mesh.app("127.0.1.1", once)
        caller = await mesh.caller()
        assert (await caller.get()).body == b"ok"
        closing.set()
        assert (await caller.get()).body == b"ok"
        assert mesh.calls["127.0.1.1"] == 2
        # an idle connection is watched: a server's close is seen before the next request
        while mesh.upstreams.kept:
            await trio.sleep(0.05)
        assert (await caller.get(method="POST", body=b"x")).body == b"ok"


async def test_timeouts_answer_504_before_the_response_begins():
    async def silent(stream):
        await stream.receive_some()
        await trio.sleep_forever()

    async with rig(apps=False) as mesh:
        mesh.configure(
            virtual_service({"route": [{"destination": {"host": "reviews"}}], "timeout": "0.2s"})
        )
        for ip in BOTH:
            await mesh.app(ip, silent)
        answer = await (await mesh.caller()).get()
        assert (answer.status, answer.body) == (504, b"upstream request timeout")


async def test_a_client_that_goes_away_frees_the_application():
    gone = trio.Event()

    async def waiting(stream):
        await stream.receive_some()
        assert await stream.receive_some() == b""
        gone.set()

    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, waiting)
        caller = await mesh.caller()
        await caller.send()
        while not mesh.calls:
            await trio.sleep(0.01)
        caller.stream.reset()
        await gone.wait()


async def test_expect_continue_is_the_applications_word():
    async with rig() as mesh:
        stream = await mesh.open()
        await stream.send_all(
            b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        )
        assert await stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"abc")
        assert b'"size": 3' in await stream.receive_some()


async def test_an_upgrade_becomes_a_tunnel():
    async def chat(stream):
        text = await stream.receive_some()
        assert b"upgrade: chat\r\nconnection: upgrade" in text
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhello"
        )
        while data := await stream.receive_some():
            await stream.send_all(data.upper())

    async with rig(apps=False) as mesh:
        for ip in BOTH:
            await mesh.app(ip, chat)
        stream = await mesh.open()
        await stream.send_all(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: chat\r\n\r\nearly"
        )
        text = b""
        while not text.endswith(b"helloEARLY"):
            text += await stream.receive_some()
        assert b"upgrade: chat" in text
        await stream.send_eof()
        assert await stream.receive_some() == b""


async def test_an_upgrade_that_does_not_happen_stays_http():
    async with rig() as mesh:
        caller = await mesh.caller()
        await caller.stream.send_all(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\n"
            b"upgrade: h2c\r\nhttp2-settings: AAA\r\n\r\n"
        )
        text = await caller.stream.receive_some()
        assert text.startswith(b"HTTP/1.1 200")
        assert b"http2-settings" not in text.lower()
        assert (await caller.get()).status == 200


async def test_endpoints_without_a_tunnel_are_reached_plainly():
    async with rig(hbone=False) as mesh:
        assert (await (await mesh.caller()).get()).status == 200
        assert not mesh.tunnels
